"""Folders given as the base model: what is read, and one sentence for what is not."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from lib.base.packaged_smollm2 import BaseUnavailable
from lib.base.pretrained import load_base
from lib.base.tiny_llama import byte_level_tokenizer, tiny_llama
from lib.runs.fetch import Refused

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "mine"
    tiny_llama().save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


def configured(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def without_a_layer(folder):
    kept = {n: t for n, t in load_file(folder / WEIGHTS).items() if ".layers.3." not in n}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})


def larger_tokenizer(folder):
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([f"word{number}" for number in range(20)])
    tokenizer.save_pretrained(folder)


BAD = {
    "no weights": (lambda f: (f / WEIGHTS).unlink(), r"holds no model\*\.safetensors"),
    "only a pickle": (
        lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"),
        r"holds no model\*\.safetensors",
    ),
    "no configuration": (lambda f: (f / "config.json").unlink(), "The configuration in"),
    "configuration cut": (lambda f: cut(f / "config.json"), "The configuration in"),
    "another family": (lambda f: configured(f, model_type="gpt2"), "of type 'gpt2'; only 'llama'"),
    "weights cut": (lambda f: cut(f / WEIGHTS), "The weights in"),
    "weights are text": (lambda f: (f / WEIGHTS).write_text("hello"), "The weights in"),
    "a layer is missing": (without_a_layer, "do not fit its configuration"),
    "another width": (lambda f: configured(f, hidden_size=64), "weights in"),
    "another vocabulary": (lambda f: configured(f, vocab_size=300), "weights in"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("token*")], "The tokenizer in"),
    "tokenizer of another model": (larger_tokenizer, "has 300 tokens, its model 280"),
}


def test_a_folder_is_the_model_that_was_saved_there(saved):
    base = load_base(str(saved))
    assert (base.name, base.source) == ("mine", "folder") and base.parameters > 0
    assert base.sha256 == load_base(str(saved)).sha256 != load_base("tiny").sha256


@pytest.mark.parametrize("name", BAD)
def test_a_folder_that_is_no_base_is_one_sentence(saved, tmp_path, name):
    harm, sentence = BAD[name]
    folder = shutil.copytree(saved, tmp_path / "mine")
    harm(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises((BaseUnavailable, Refused), match=sentence) as said:
        load_base(str(folder))
    words = str(said.value)
    assert str(folder) in words and "\n" not in words and len(words) < 400
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_source_that_is_nothing_names_what_is_allowed(tmp_path):
    for source in ("wheels", "owner/name", "owner/name@main", str(tmp_path / "missing")):
        with pytest.raises(Refused, match="is not known; allowed: 'auto'"):
            load_base(source)
