"""Input embedding and tokenizer of a pretrained model, without keeping the model (seed 003).

The seed uses the frozen table of GPT-2 small (768 wide). Any Hugging Face model's table serves:
``gpt2`` (hub, pinned), a folder with any saved model, or a source of the base model door
(SmolLM2-135M, 576 wide; ``tiny`` for tests). The table is cached on disk with its hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from lib.models.pretrained import BaseUnavailable, cache_folder, load_base
from lib.text import hub

GPT2 = "openai-community/gpt2"
GPT2_REVISION = "607a30d783dfa663caf39e06633721c8d4cfcd7e"


@dataclass(frozen=True)
class Embedding:
    """Frozen table [V, d], its tokenizer, the model's name and the SHA-256 of the table."""

    table: Tensor
    tokenizer: PreTrainedTokenizerBase
    name: str
    sha256: str


def table_sha256(table: Tensor) -> str:
    """SHA-256 of a table's numbers, row by row."""
    return hashlib.sha256(table.contiguous().numpy().tobytes()).hexdigest()


def load_embedding(source: str = "auto") -> Embedding:
    """Table and tokenizer of `source`; read from the cache where it lies there.

    Raises BaseUnavailable when the model cannot be had and ValueError for an unknown source;
    a damaged cache entry raises RuntimeError that names the folder to delete.
    """
    if source == "tiny" or Path(source).is_dir():
        return _read_model(source)
    folder = cache_folder() / "embedding" / hashlib.sha256(source.encode()).hexdigest()[:16]
    if not (folder / "embedding.json").is_file():
        _save(folder, _read_model(source))
    return _load(folder)


def _read_model(source: str) -> Embedding:
    if source == "gpt2":
        return _from_auto(GPT2, GPT2_REVISION)
    folder = Path(source)
    if folder.is_dir() and json.loads((folder / "config.json").read_text()).get(
        "model_type"
    ) not in (None, "llama"):
        return _from_auto(str(folder), None)
    base = load_base(source)
    table = base.model.get_input_embeddings().weight.detach().clone()
    return Embedding(table, base.tokenizer, base.name, table_sha256(table))


def _from_auto(name: str, revision: str | None) -> Embedding:
    """Any architecture; safetensors only, no remote code."""
    local = revision is None
    if not local and not hub.reachable():
        raise BaseUnavailable(f"The hub did not answer within 3 s, so {name} was not loaded.")
    options = {"local_files_only": True} if local else {"revision": revision}
    model = AutoModel.from_pretrained(name, use_safetensors=True, dtype=torch.float32, **options)
    table = model.get_input_embeddings().weight.detach().clone()
    tokenizer = AutoTokenizer.from_pretrained(name, **options)
    return Embedding(table, tokenizer, Path(name).name if local else name, table_sha256(table))


def _save(folder: Path, embedding: Embedding) -> None:
    """Write beside the target and rename, so that a killed start leaves no half entry."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
    try:
        save_file({"table": embedding.table.contiguous()}, partial / "table.safetensors")
        embedding.tokenizer.save_pretrained(partial)
        (partial / "embedding.json").write_text(
            json.dumps({"name": embedding.name, "sha256": embedding.sha256})
        )
        try:
            os.replace(partial, folder)
        except OSError:  # another process was first
            if not (folder / "embedding.json").is_file():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _load(folder: Path) -> Embedding:
    about = json.loads((folder / "embedding.json").read_text())
    table = load_file(folder / "table.safetensors")["table"]
    if table_sha256(table) != about["sha256"]:
        raise RuntimeError(f"The cached embedding in {folder} is damaged; delete that folder.")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return Embedding(table, tokenizer, about["name"], about["sha256"])


def narrowed(table: Tensor, width: int) -> Tensor:
    """Table [V, d] in its `width` leading singular directions [V, width]; width 0 or d: unchanged.

    Keeps the seed's geometry (context width = embedding width) at a fraction of its cost.
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


def kept_share(table: Tensor, width: int) -> float:
    """Share of the table's squared norm inside its `width` leading directions, 0 to 1."""
    if width in (0, table.shape[1]):
        return 1.0
    values = torch.linalg.eigvalsh(table.double().t() @ table.double())
    return (values[-width:].sum() / values.sum()).item()
