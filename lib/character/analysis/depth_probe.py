"""Take a trained network apart by depth: everything Experiments 8-11 report about it.

Every number is given for the ``best`` epoch's weights and for the ``last`` ones, and on named
splits: ``valid`` is all of valid (the seeds chose and reported on it); ``report`` is test, or the
second half of valid where no test exists. Thresholds and temperatures are chosen on ``choose``,
which is valid, or its first half where no test exists; never on what is reported. On the text of
``repeated`` that separates nothing: both halves of valid hold the same nine distinct windows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.character.analysis import calibration
from lib.character.analysis.early_exit import Readings, at_threshold, best_threshold, layer_logits
from lib.character.analysis.layer_contribution import by_group, difficulty, residual_norms
from lib.text.windows import Windows
from lib.character.character_run import CharacterRun
from lib.character.kept_run import STATES, load_state
from lib.runs.task import Outcome

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Probe:
    """A trained network (its run and that run's id), where it may exit, and who judges difficulty.

    ``judge`` is the run id of another network of the same kind; empty leaves that control out.
    """

    network: CharacterRun
    run_id: str
    exit_layer: int
    judge: str = ""
    thresholds: tuple[float, ...] = THRESHOLDS


def splits(network: CharacterRun) -> dict[str, Windows]:
    """The splits ``valid``, ``choose`` and ``report`` as described above."""
    valid = network.windows("valid")
    if network.corpus.test:
        return {"valid": valid, "choose": valid, "report": network.windows("test")}
    half = len(valid) // 2
    first = Windows(valid.inputs[:half], valid.targets[:half])
    return {
        "valid": valid,
        "choose": first,
        "report": Windows(valid.inputs[half:], valid.targets[half:]),
    }


def run(config: Probe, seed: int, folder: Path) -> Outcome:
    """Tables ``summary``, ``exits``, ``layers`` and ``reliability`` of one trained network."""
    tables: dict[str, list[dict]] = {
        name: [] for name in ("summary", "exits", "layers", "reliability")
    }
    found = splits(config.network)
    for state in STATES:
        model = load_state(config.network, folder.parent / config.run_id, state)
        read = {name: layer_logits(model, windows) for name, windows in found.items()}
        chosen = _choice(config, read["choose"])
        for split in ("valid", "report"):
            where = {"state": state, "split": split}
            summary, exits, bins = _exits(config, read[split], chosen)
            layers = _layers(config, read[split], found[split], state, folder)
            tables["summary"].append({**where, **summary})
            tables["exits"] += [{**where, **row} for row in exits]
            tables["reliability"] += [{**where, **row} for row in bins]
            tables["layers"] += [{**where, **row} for row in layers]
    corpus = config.network.corpus
    return Outcome({"corpus": corpus.name, "corpus_sha256": corpus.sha256}, tables)


def _choice(config: Probe, read: Any) -> dict[str, float]:
    """Threshold and temperatures, from the split that is not reported."""
    logits, _, targets = read
    shallow, deep = (Readings.of(logits[i], targets) for i in (config.exit_layer - 1, -1))
    return {
        "threshold": best_threshold(shallow, deep, config.thresholds),
        "exit_temperature": calibration.fit_temperature(logits[config.exit_layer - 1], targets),
        "last_temperature": calibration.fit_temperature(logits[-1], targets),
    }


def _exits(config: Probe, read: Any, chosen: dict[str, float]) -> tuple[dict, list, list]:
    logits, _, targets = read
    depth = config.exit_layer / len(logits)
    pair = {"exit": logits[config.exit_layer - 1], "last": logits[-1]}
    shallow, deep = (Readings.of(values, targets) for values in pair.values())
    exits = [at_threshold(shallow, deep, t, depth) for t in config.thresholds]
    summary = {
        "exit_layer": config.exit_layer,
        "symbols": len(targets),
        "always_exit_ppl": shallow.perplexity,
        "always_last_ppl": deep.perplexity,
        "always_exit_acc_pct": 100 * shallow.correct.mean(),
        "always_last_acc_pct": 100 * deep.correct.mean(),
        "loss_correlation": float(np.corrcoef(shallow.loss, deep.loss)[0, 1]),
        "confidence_if_last_correct": float(shallow.confidence[deep.correct].mean()),
        "confidence_if_last_wrong": float(shallow.confidence[~deep.correct].mean()),
        "exit_correct_if_last_correct_pct": 100 * float(shallow.correct[deep.correct].mean()),
        **{f"chosen_{name}": value for name, value in chosen.items()},
    }
    at_choice = at_threshold(shallow, deep, chosen["threshold"], depth)
    summary |= {f"chosen_{k}": at_choice[k] for k in ("exit_pct", "compute_pct", "ppl", "acc_pct")}
    bins = []
    for name, values in pair.items():
        correct = (shallow if name == "exit" else deep).correct
        for temperature in (1.0, chosen[f"{name}_temperature"]):
            confidence = calibration.calibrated(values, temperature).numpy()
            kind = "raw" if temperature == 1.0 else "tempered"
            error = calibration.expected_calibration_error(confidence, correct)
            summary[f"{name}_ece_{kind}"] = error
            bins += [
                {"layer": name, "kind": kind, **row}
                for row in calibration.reliability(confidence, correct)
            ]
        summary[f"{name}_overconfidence"] = float(
            calibration.calibrated(values, 1.0).mean() - correct.mean()
        )
    return {k: _plain(v) for k, v in summary.items()}, exits, bins


def _layers(config: Probe, read: Any, windows: Windows, state: str, folder: Path) -> list[dict]:
    logits, states, targets = read
    losses = [Readings.of(values, targets).loss for values in logits]
    norms, rows = residual_norms(states), []
    judges = {"own": losses[-1]}
    if config.judge:
        other = load_state(config.network, folder.parent / config.judge, state)
        other_logits, _, _ = layer_logits(other, windows)
        judges["other"] = Readings.of(other_logits[-1], targets).loss
    for judge, final in judges.items():
        group, low, high = difficulty(final)
        rows += [
            {"judge": judge, **row, "easy_below": low, "hard_above": high}
            for row in by_group(losses, norms, group)
        ]
    return rows


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, np.floating) else value
