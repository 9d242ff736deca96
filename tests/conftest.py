"""Shared by all tests: one thread, and a corpus, base and windows that need no file and no hub."""

import pytest
import torch

from lib.base.pretrained import load_base
from lib.cascade.dataset import token_dataset
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


@pytest.fixture(scope="module")
def base():
    """The random tiny base."""
    return load_base("tiny")


@pytest.fixture(scope="module")
def dataset(request, tmp_path_factory):
    """Windows and features of the tiny base in a cache of their own.

    The module that asks says how many windows of each part: ``COUNTS``.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPTH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield token_dataset("tiny", "stream", request.module.COUNTS, "embedded")
