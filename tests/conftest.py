"""Shared by all tests: one thread, and a corpus that needs no file and no hub."""

import pytest
import torch

from lib.text.corpus import Corpus, load_corpus


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one fixed order: bit-for-bit tests depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """4,000 characters of the embedded prose."""
    return load_corpus("python-docs", "", 4_000, 1_000, 1_000)
