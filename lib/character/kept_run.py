"""A character run that keeps its weights: those of the best epoch and those of the last.

Analyses read them from the run's folder, so that a new analysis needs no new training.
"""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from lib.training import checkpoint
from lib.character.character_run import CharacterRun, CurveFile, outcome
from lib.training.fit import fit
from lib.runs.task import Outcome
from lib.training.seeding import seed_weights

STATES = ("best", "last")


def run(config: CharacterRun, seed: int, folder: Path) -> Outcome:
    """Train, report the best epoch as every character run does, keep both states."""
    seed_weights(seed)
    model = config.model.build()
    file = folder / "checkpoint.pt"
    record = fit(
        model,
        config.objective,
        config.windows("train"),
        config.windows("valid"),
        config.training,
        seed,
        path=file,
        report=CurveFile(folder / "curve.csv"),
    )
    saved = checkpoint.load(file)
    for state, weights in (("best", saved["best"]), ("last", saved["model"])):
        partial = folder / f"{state}.partial"
        save_file(weights, partial)
        partial.replace(folder / f"{state}.safetensors")
    found = outcome(config, model, record)
    found.row["last_val_ppl"] = record.curve[-1]["val_ppl"]
    return found


def load_state(config: CharacterRun, folder: Path, state: str) -> nn.Module:
    """The kept model in evaluation mode.

    Raises ValueError for a state other than best or last, FileNotFoundError if it was deleted.
    """
    if state not in STATES:
        raise ValueError(f"state is {state!r}; allowed: {', '.join(STATES)}")
    path = folder / f"{state}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"run {folder.name} kept no {path.name}; delete its folder in results/runs to train "
            "it again"
        )
    model = config.model.build()
    model.load_state_dict(load_file(path))
    return model.eval()
