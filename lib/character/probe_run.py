"""Train a network and take it apart by depth: everything that Experiments 8-11 report about it.

Every number is given for the ``best`` epoch's weights and for the ``last`` ones, and on named
splits: ``valid`` is all of valid (the report chose and reported on it); ``report`` is test, or the
second half of valid where no test exists. Thresholds and temperatures are chosen on ``choose``,
which is valid, or its first half where no test exists; never on what is reported. On the text of
``repeated`` that separates nothing: both halves of valid hold the same nine distinct windows.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib.character.analysis import calibration
from lib.character.analysis.difficulty import OTHER, OWN, by_reference, groups
from lib.character.analysis.early_exit import Readings, at_threshold, best_threshold
from lib.character.analysis.layer_contribution import by_group, residual_norms
from lib.character.models.routed import check_exit
from lib.character.run import KEPT, STATES, CharacterRun, load_state, run_character
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.text.windows import Windows

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
PROVENANCE = ("device", "code_hash", "commit", "torch")  # of the run itself
REPORTED = ("valid", "report")


@dataclass(frozen=True)
class Probe:
    """A network and the layer that symbols may exit after.

    ``reference`` is the random seed of another network of the same kind, which says what symbols
    are hard; -1 leaves that control and the table ``references`` out. Raises ValueError for an exit
    layer that is not below the last.
    """

    network: CharacterRun
    exit_layer: int
    reference: int = -1
    thresholds: tuple[float, ...] = THRESHOLDS

    def __post_init__(self):
        check_exit(self.exit_layer, self.network.model.layers)


@dataclass(frozen=True)
class Depths:
    """What a network says of some windows after every layer.

    ``logits`` (N, V) through the shared head a layer, ``states`` (N, d) before and after each
    block (the first is the embedding), ``targets`` (N,); all on the CPU.
    """

    logits: list[Tensor]
    states: list[Tensor]
    targets: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, windows: Windows) -> "Depths":
        device = next(model.parameters()).device
        parts = [model.hidden_states(inputs.to(device)) for inputs, _ in windows.batches(64)]
        states = [torch.cat(layer).flatten(0, 1) for layer in zip(*parts, strict=True)]
        logits = [model.head(state).cpu() for state in states[1:]]
        return cls(logits, [state.cpu() for state in states], windows.targets.flatten())

    @cached_property
    def losses(self) -> list[np.ndarray]:
        """Nats (N,) after each layer."""
        return [Readings.of(values, self.targets).loss for values in self.logits]


def splits(network: CharacterRun) -> dict[str, Windows]:
    """The splits ``valid``, ``choose`` and ``report`` as described above."""
    valid = network.windows("valid")
    if network.corpus.test:
        return {"valid": valid, "choose": valid, "report": network.windows("test")}
    half = len(valid) // 2
    first, second = slice(None, half), slice(half, None)
    return {
        "valid": valid,
        "choose": Windows(valid.inputs[first], valid.targets[first]),
        "report": Windows(valid.inputs[second], valid.targets[second]),
    }


@run_function("probe")
def run_probe(config: Probe, seed: int, place: Place) -> Outcome:
    """The row of the training, and tables ``curve``, ``summary``, ``exits``, ``layers``,
    ``reliability`` and, with a reference, ``references``.

    The trainings are runs of their own, made now where they are not finished.
    """
    network = replace(config.network, keep=True)
    here = place.need(run_character, network, seed, *KEPT)
    other = (
        place.need(run_character, network, config.reference, *KEPT)
        if config.reference >= 0
        else None
    )
    record = here.record()
    names = ("summary", "exits", "layers", "reliability", *(("references",) if other else ()))
    tables: dict[str, list[dict]] = {name: [] for name in names}
    windows = splits(network)
    for state in STATES:
        read = _read(network, here, state, windows)
        theirs = _read(network, other, state, {n: windows[n] for n in REPORTED}) if other else {}
        chosen = choice(config, read["choose"])
        for split in REPORTED:
            found = {}
            found["summary"], found["exits"], found["reliability"] = exits(
                config, read[split], chosen
            )
            found["layers"] = contributions(read[split], theirs.get(split))
            if other:
                found["references"] = _references(
                    network, read[split], theirs[split], windows[split]
                )
            for name, rows in found.items():
                tables[name] += [{"state": state, "split": split, **row} for row in rows]
    row = {name: value for name, value in record["row"].items() if name not in PROVENANCE}
    return Outcome(row, {**record["tables"], **tables})


def choice(config: Probe, read: Depths) -> dict[str, float]:
    """Threshold and temperatures, from the split that is not reported."""
    exit_logits, last_logits = read.logits[config.exit_layer - 1], read.logits[-1]
    shallow, deep = (Readings.of(values, read.targets) for values in (exit_logits, last_logits))
    return {
        "threshold": best_threshold(shallow, deep, config.thresholds),
        "exit_temperature": calibration.fit_temperature(exit_logits, read.targets),
        "last_temperature": calibration.fit_temperature(last_logits, read.targets),
    }


def exits(
    config: Probe, read: Depths, chosen: dict[str, float]
) -> tuple[list[dict], list[dict], list[dict]]:
    """The summary (one row), a row a threshold, and the bins of reliability."""
    depth = config.exit_layer / len(read.logits)
    pair = {"exit": read.logits[config.exit_layer - 1], "last": read.logits[-1]}
    shallow, deep = (Readings.of(values, read.targets) for values in pair.values())
    rows = [at_threshold(shallow, deep, t, depth) for t in config.thresholds]
    summary = {
        "exit_layer": config.exit_layer,
        "symbols": len(read.targets),
        "always_exit_ppl": shallow.perplexity,
        "always_last_ppl": deep.perplexity,
        "always_exit_acc_pct": 100 * shallow.correct.mean(),
        "always_last_acc_pct": 100 * deep.correct.mean(),
        "loss_correlation": np.corrcoef(shallow.loss, deep.loss)[0, 1],
        "confidence_if_last_correct": _mean(shallow.confidence[deep.correct]),
        "confidence_if_last_wrong": _mean(shallow.confidence[~deep.correct]),
        "exit_correct_if_last_correct_pct": _mean(100.0 * shallow.correct[deep.correct]),
        **{f"chosen_{name}": value for name, value in chosen.items()},
    }
    at_choice = at_threshold(shallow, deep, chosen["threshold"], depth)
    summary |= {f"chosen_{k}": at_choice[k] for k in ("exit_pct", "compute_pct", "ppl", "acc_pct")}
    bins = []
    for name, values in pair.items():
        correct = (shallow if name == "exit" else deep).correct
        for kind, temperature in (("raw", 1.0), ("tempered", chosen[f"{name}_temperature"])):
            confidence = calibration.calibrated(values, temperature).numpy()
            error = calibration.expected_calibration_error(confidence, correct)
            summary[f"{name}_ece_{kind}"] = error
            bins += [
                {"layer": name, "kind": kind, **row}
                for row in calibration.reliability(confidence, correct)
            ]
        sure = calibration.calibrated(values, 1.0).mean()
        summary[f"{name}_overconfidence"] = float(sure - correct.mean())
    return [{name: _plain(value) for name, value in summary.items()}], rows, bins


def contributions(read: Depths, other: Depths | None) -> list[dict]:
    """Loss and change by layer and difficulty under a last layer, its own or that of ``other``."""
    norms, rows = residual_norms(read.states), []
    references = {OWN: read.losses[-1]} | ({OTHER: other.losses[-1]} if other else {})
    for reference, final in references.items():
        group, low, high = groups(final)
        rows += [
            {"reference": reference, **row, "easy_below": low, "hard_above": high}
            for row in by_group(read.losses, norms, group)
        ]
    return rows


def _references(network: CharacterRun, read: Depths, other: Depths, windows: Windows) -> list[dict]:
    """Loss and change by layer and difficulty under each of the references."""
    alphabet, norms = network.corpus.alphabet, residual_norms(read.states)
    train_text = alphabet.encode(network.corpus.train)
    found = by_reference(other.losses, train_text, windows, len(alphabet))
    return [
        {"reference": reference, **row}
        for reference, loss in found.items()
        for row in by_group(read.losses, norms, groups(loss)[0])
    ]


def _read(
    network: CharacterRun, place: Place, state: str, windows: dict[str, Windows]
) -> dict[str, Depths]:
    model = load_state(network, place, state)
    return {name: Depths.of(model, own) for name, own in windows.items()}


def _mean(values: np.ndarray) -> float | None:
    """The mean of values (N,); None of none, which leaves the cell empty."""
    return float(values.mean()) if len(values) else None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
