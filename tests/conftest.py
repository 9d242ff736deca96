"""Shared by all tests: one thread, folders of their own, and a corpus, base and windows that need
no file and no hub."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest
import torch

from lib.runs.places import ROOT
from lib.text.corpus import Corpus, load_corpus

# as in tools/notebook_files.py: nbformat checks no IRI, whose grammar takes 1.4 s to build
sys.modules.setdefault("rfc3987_syntax", None)


def load_tool(name: str) -> ModuleType:
    """A program of tools/ as a module; what it sets in the environment does not stay."""
    spec = importlib.util.spec_from_file_location(f"{name}_tool", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with patch.dict(os.environ):
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def folders_of_their_own(tmp_path_factory):
    """No test reads or writes what was run in this checkout, or a text of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPTH_KEEP", str(tmp_path_factory.mktemp("kept")))
        patch.delenv("DEPTH_DATA", raising=False)
        patch.delenv("DEPTH_RECORDED", raising=False)
        yield


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """The folder of runs and sets of one test."""
    monkeypatch.setenv("DEPTH_KEEP", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def marks(tmp_path) -> Path:
    """A folder in which every start of a small run leaves its process id."""
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


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
    from lib.base.pretrained import load_base

    return load_base("tiny")


@pytest.fixture(scope="module")
def dataset(request, tmp_path_factory):
    """Windows and features of the tiny base in a cache of their own.

    The module that asks says how many windows of each part: ``COUNTS``.
    """
    from lib.cascade.dataset import token_dataset

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPTH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield token_dataset("tiny", "stream", request.module.COUNTS, "embedded")
