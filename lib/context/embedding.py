"""Input embedding and tokenizer of a pretrained model, without keeping the model (R3).

The report uses the frozen table of GPT-2 small (768 wide). Any Hugging Face model's table serves:
``gpt2`` (hub, pinned), a folder with any saved model, or a source of the base model
(SmolLM2-135M, 576 wide; ``tiny`` for tests).
"""

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lib.runs import fetch
from lib.runs.places import at_home

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GPT2 = "openai-community/gpt2"
GPT2_REVISION = "607a30d783dfa663caf39e06633721c8d4cfcd7e"


@dataclass(frozen=True)
class Embedding:
    """A frozen table [V, d], its tokenizer, a name and the SHA-256 of table and tokenizer."""

    table: Tensor
    tokenizer: "PreTrainedTokenizerBase"
    name: str
    sha256: str


def _embedding(table: Tensor, tokenizer: "PreTrainedTokenizerBase", name: str) -> Embedding:
    digest = hashlib.sha256(table.contiguous().numpy().tobytes())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    return Embedding(table, tokenizer, name, digest.hexdigest())


@functools.lru_cache(maxsize=1)
def load_embedding(source: str = "auto") -> Embedding:
    """Table and tokenizer of `source`, kept for the process (115 MB for SmolLM2-135M).

    Raises BaseUnavailable when the model cannot be had, NoHome for a folder in a home that is not
    known and ValueError for an unknown source.
    """
    if source == "gpt2":
        return _from_auto(_fetched(GPT2, GPT2_REVISION), GPT2)
    folder = at_home(source)
    if (folder / "config.json").is_file():
        family = json.loads((folder / "config.json").read_text()).get("model_type")
        if family not in (None, "llama"):
            return _from_auto(folder, folder.name)
    from lib.base.pretrained import load_base

    base = load_base(source)
    table = base.model.get_input_embeddings().weight.detach().clone()
    return _embedding(table, base.tokenizer, base.name)


def _fetched(name: str, revision: str) -> Path:
    """Folder of a hub model at a pinned revision: fetched before, or now."""
    from lib.base.pretrained import BaseUnavailable

    try:
        wanted = ["*.json", "*.safetensors", "merges.txt", "vocab.txt"]
        return fetch.hub_folder(name, revision, wanted)
    except fetch.Unavailable as missing:
        raise BaseUnavailable(str(missing)) from missing


def _from_auto(folder: Path, name: str) -> Embedding:
    """A saved model of any architecture; safetensors only, no remote code.

    Raises BaseUnavailable for a folder that cannot be read, that lacks the table (transformers
    would draw it at random), or whose tokenizer is empty or does not fit the table.
    """
    from transformers import AutoModel, AutoTokenizer

    from lib.base.pretrained import BaseUnavailable

    options = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    try:
        model, found = AutoModel.from_pretrained(folder, local_files_only=True, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever of its many libraries raises
        reason = " ".join(str(error).split())[:150]
        raise BaseUnavailable(
            f"The model in {folder} cannot be read ({type(error).__name__}: {reason})."
        ) from error
    weight = model.get_input_embeddings().weight
    named = dict(model.named_parameters())
    if any(named.get(key) is weight for key in found["missing_keys"]):
        raise BaseUnavailable(f"The weights in {folder} hold no input embedding.")
    rows, types = len(weight), len(tokenizer.get_vocab())
    if not len(tokenizer.all_special_ids) < types <= rows:
        raise BaseUnavailable(
            f"The tokenizer in {folder} has {types:,} tokens, its table {rows:,} rows: they do not "
            "belong together."
        )
    return _embedding(weight.detach().clone(), tokenizer, name)


def narrowed(table: Tensor, width: int) -> Tensor:
    """Table [V, d] in its `width` leading singular directions [V, width]; width 0 or d: unchanged.

    Keeps the report's geometry (context width = embedding width) at a fraction of its cost.
    Raises ValueError when `width` exceeds d.
    """
    if width in (0, table.shape[1]):
        return table
    if width < 0 or width > table.shape[1]:
        raise ValueError(f"embedding width {width} is not between 1 and {table.shape[1]}")
    values, vectors = torch.linalg.eigh(table.double().t() @ table.double())
    leading = vectors[:, -width:].flip(1)
    signs = torch.sign(leading[leading.abs().argmax(0), torch.arange(width)])
    return (table.double() @ (leading * signs)).float()
