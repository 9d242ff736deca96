"""Tensors come back bit for bit, and a file with any bit changed does not come back at all."""

import pytest
import torch
from safetensors.torch import save_file

from lib.runs import files
from lib.runs.files import Damaged
from lib.runs.tensors import load_tensors, save_tensors


def test_every_type_and_shape_comes_back(tmp_path):
    held = torch.arange(12.0).view(3, 4)
    tensors = {
        "float": torch.randn(3, 5),
        "half": torch.randn(4).bfloat16(),
        "int": torch.tensor(2**62 + 1),
        "bool": torch.tensor([True, False]),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "empty": torch.zeros(0, 3),
        "turned": held.T,
        "whole": held,
        "tied": held,  # one storage under several names, as tied weights are
        "piece": held[1:],
        "grad": torch.nn.Parameter(torch.ones(2)),
    }
    about = {"a": [1, None, 0.1, float("inf")], "字": "x"}
    save_tensors(tmp_path / "x.safetensors", tensors, about)
    found, said = load_tensors(tmp_path / "x.safetensors")
    assert said == about and found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_any_changed_bit_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.arange(3.0), "b": torch.tensor(1)}, {"n": 1})
    whole = path.read_bytes()
    for place in range(0, len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            tensors, about = load_tensors(path)
        except Damaged:
            continue
        # padding between header and data holds nothing
        assert torch.equal(tensors["a"], torch.arange(3.0)) and about == {"n": 1}
        assert whole[place : place + 1] == b" "


def test_a_file_that_cannot_be_read_now_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.arange(3.0)})

    def too_many(*given):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("lib.runs.tensors.safe_open", too_many)
        with pytest.raises(OSError, match="Too many open files"):
            files.kept(path, load_tensors)
    assert torch.equal(load_tensors(path)[0]["a"], torch.arange(3.0))


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, -1])
def test_a_truncated_file_is_noticed(tmp_path, kept):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.arange(30.0)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(Damaged, match="x.safetensors is not what was written"):
        load_tensors(path)


def test_foreign_and_absent_files(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    (tmp_path / "words").write_text("no tensors here")
    torch.save({"a": torch.ones(2)}, tmp_path / "pickle")
    for name in ("foreign.safetensors", "words", "pickle"):
        with pytest.raises(Damaged, match=name):
            load_tensors(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="absent is not there"):
        load_tensors(tmp_path / "absent")
