"""Phase 2 of seed 003: next-token training of TokenBlock and head on given contexts.

Contiguous batches in stream order, Adam with a constant rate, gradient clip 1.0, no dropout: the
seed's recipe, with a fixed batch size instead of one derived from free memory. After every epoch
the whole state goes to disk, so a killed run continues with the same bits.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from lib.context.early_stopping import best_epoch, stop_epoch
from lib.context.token_stream import UNSCORED
from lib.context.whole_files import write_file

EVALUATION_CHUNK = 1024


@dataclass(frozen=True)
class PhaseTwoSettings:
    """Batch in tokens; `patience` 0 never stops early; `max_updates` 0 sets no limit."""

    batch: int = 512
    learning_rate: float = 1e-3
    max_epochs: int = 10
    patience: int = 1
    max_updates: int = 0
    clip: float = 1.0

    def __post_init__(self) -> None:
        if min(self.batch, self.max_epochs) < 1 or min(self.patience, self.max_updates) < 0:
            raise ValueError("batch and max_epochs must be >= 1, patience and max_updates >= 0")


@dataclass(frozen=True)
class Features:
    """What the model reads at each position: contexts per layer [N, D_l], token input [N, m*d],
    and the output index of the same token [N]. Position i predicts the output of i + 1."""

    contexts: list[Tensor]
    tokens: Tensor
    outputs: Tensor

    def __post_init__(self) -> None:
        lengths = {len(t) for t in (*self.contexts, self.tokens, self.outputs)}
        if len(lengths) != 1 or min(lengths) < 2:
            raise ValueError(f"all parts must have one length of at least 2, not {sorted(lengths)}")

    @property
    def positions(self) -> int:
        """How many tokens are predicted: all but the first."""
        return len(self.outputs) - 1

    def batch(self, begin: int, end: int) -> tuple[list[Tensor], Tensor, Tensor]:
        """Inputs of positions begin..end-1 and their targets."""
        rows = slice(begin, end)
        targets = self.outputs[begin + 1 : end + 1]
        return [c[rows] for c in self.contexts], self.tokens[rows], targets


@torch.no_grad()
def evaluate(model: nn.Module, features: Features) -> dict[str, float]:
    """Mean cross-entropy (nats), perplexity and top-1 accuracy (0 to 1) over scored positions.

    Raises FloatingPointError when the loss is not finite and ValueError when nothing is scored.
    """
    loss, right, scored = 0.0, 0, 0
    for begin in range(0, features.positions, EVALUATION_CHUNK):
        end = min(begin + EVALUATION_CHUNK, features.positions)
        contexts, tokens, targets = features.batch(begin, end)
        logits = model(contexts, tokens)
        loss += nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        right += int((logits.argmax(1) == targets).sum())
        scored += int((targets != UNSCORED).sum())
    if not scored:
        raise ValueError(f"none of {features.positions} positions is of a type of the vocabulary")
    loss /= scored
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss over {scored} positions is {loss}")
    return {"loss": loss, "ppl": math.exp(loss), "acc": right / scored}


@dataclass(frozen=True)
class PhaseTwoResult:
    """One row per epoch; `best` is the epoch with the lowest validation loss, weights restored."""

    curve: list[dict]
    best: int
    updates: int


def _pack(model: nn.Module, optimiser: torch.optim.Optimizer, best: dict[str, Tensor]) -> dict:
    tensors = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v.contiguous() for k, v in best.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{k}": v.contiguous() for k, v in state.items()}
    return tensors


def _unpack(tensors: dict[str, Tensor], model: nn.Module, optimiser: torch.optim.Optimizer) -> dict:
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "adam": {}}
    for name, tensor in tensors.items():
        group, rest = name.split(".", 1)
        groups[group][rest] = tensor
    model.load_state_dict(groups["model"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in groups["adam"].items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict(
        {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
    )
    return groups["best"]


def _save(path: Path, about: dict, tensors: dict[str, Tensor]) -> None:
    """One atomic file: length of the JSON head, the head, then safetensors."""
    head = json.dumps(about).encode()
    write_file(path, len(head).to_bytes(8, "little") + head + save_bytes(tensors))


def _load(path: Path, settings: dict) -> tuple[dict, dict[str, Tensor]]:
    data = path.read_bytes()
    try:
        size = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + size])
        tensors = load_bytes(data[8 + size :])
    except Exception as error:
        raise RuntimeError(f"the checkpoint {path.name} is damaged; delete it") from error
    if about["settings"] != settings:
        raise RuntimeError(f"the checkpoint {path.name} belongs to other settings; delete it")
    return about, tensors


def fit(
    model: nn.Module,
    train: Features,
    validation: Features,
    settings: PhaseTwoSettings,
    *,
    checkpoint: Path | None = None,
    report: dict[str, Features] | None = None,
) -> PhaseTwoResult:
    """Train `model` in place; early stopping and choice of the epoch use validation only.

    `report` names further features (test) that are evaluated each epoch and never used to choose.
    `checkpoint` is a file; when it exists the run continues from it. On return the model holds the
    weights of the best epoch. Raises FloatingPointError when a loss, of training or of `evaluate`,
    is not finite, and RuntimeError for a checkpoint that is damaged or of other settings.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate)
    curve: list[dict] = []
    best: dict[str, Tensor] = {}
    asked = asdict(settings) | {"positions": train.positions}
    if checkpoint is not None and checkpoint.is_file():
        about, tensors = _load(checkpoint, asked)
        curve, best = about["curve"], _unpack(tensors, model, optimiser)
    while not _finished(curve, settings):
        row = _epoch(model, optimiser, parameters, train, settings, curve)
        for name, features in {"val": validation, **(report or {})}.items():
            row |= {f"{name}_{k}": v for k, v in evaluate(model, features).items()}
        curve.append(row)
        losses = [r["val_loss"] for r in curve]
        if best_epoch(losses) == len(curve):
            best = {k: v.detach().clone() for k, v in model.state_dict().items()}
        if checkpoint is not None:
            _save(checkpoint, {"settings": asked, "curve": curve}, _pack(model, optimiser, best))
    model.load_state_dict(best)
    return PhaseTwoResult(curve, best_epoch([r["val_loss"] for r in curve]), curve[-1]["updates"])


def _finished(curve: list[dict], settings: PhaseTwoSettings) -> bool:
    if not curve:
        return False
    if len(curve) >= settings.max_epochs:
        return True
    if settings.max_updates and curve[-1]["updates"] >= settings.max_updates:
        return True
    losses = [row["val_loss"] for row in curve]
    return bool(settings.patience) and stop_epoch(losses + [math.inf], settings.patience) <= len(
        losses
    )


def _epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    train: Features,
    settings: PhaseTwoSettings,
    curve: list[dict],
) -> dict:
    updates = curve[-1]["updates"] if curve else 0
    total, seen = 0.0, 0
    for begin in range(0, train.positions, settings.batch):
        if settings.max_updates and updates >= settings.max_updates:
            break
        end = min(begin + settings.batch, train.positions)
        contexts, tokens, targets = train.batch(begin, end)
        loss = nn.functional.cross_entropy(model(contexts, tokens), targets)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the training loss is {loss.item()} at update {updates + 1}")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimiser.step()
        total, seen, updates = total + loss.item() * (end - begin), seen + end - begin, updates + 1
    return {"epoch": len(curve) + 1, "updates": updates, "train_ppl": math.exp(total / seen)}
