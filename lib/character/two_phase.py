"""Train in two phases: shape the blocks without labels, then fit the output head alone.

This is how LCT+OACD (seed 004, Experiment 1) is trained: the task loss reaches nothing but the
head.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from lib.character.character_run import CharacterRun, CurveFile, outcome
from lib.training.fit import Training, fit
from lib.character.objectives import Dispersion
from lib.runs.task import Outcome
from lib.training.seeding import seed_weights


@dataclass(frozen=True)
class TwoPhaseRun:
    """``head`` describes the second phase (its objective predicts); ``shaping`` the first one."""

    head: CharacterRun
    objective: Dispersion
    shaping: Training


def run(config: TwoPhaseRun, seed: int, folder: Path) -> Outcome:
    """Shape the blocks by dispersion, freeze them, then train the head by cross-entropy.

    The curve is that of the second phase; ``shaping_updates`` counts the first.
    """
    seed_weights(seed)
    model = config.head.model.build()
    train, valid = (config.head.windows(split) for split in ("train", "valid"))
    shaped = fit(
        model,
        config.objective,
        train,
        valid,
        replace(config.shaping, patience=config.shaping.epochs, restore="last"),
        seed,
        path=folder / "checkpoint_shaping.pt",
        trained=model.blocks.parameters(),
    )
    model.requires_grad_(False)  # nothing but the head learns from here on
    model.head.requires_grad_(True)
    read = fit(
        model,
        config.head.objective,
        train,
        valid,
        config.head.training,
        seed,
        path=folder / "checkpoint_head.pt",
        trained=model.head.parameters(),
        report=CurveFile(folder / "curve.csv"),
    )
    found = outcome(config.head, model, read)
    found.row["shaping_updates"] = shaped.updates
    return found
