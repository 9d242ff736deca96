"""Train in two phases: shape the blocks without labels, then fit the output head alone.

This is how LCT+OACD (R4, Experiment 1) is trained: the task loss reaches nothing but the head.
"""

from dataclasses import dataclass, replace

from lib.character.objectives import Dispersion
from lib.character.run import CharacterRun, CurveFile, WindowWork, outcome
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.text.corpus import Corpus
from lib.training.loop import Training, train
from lib.training.seeding import seed_weights


@dataclass(frozen=True)
class TwoPhaseRun:
    """``head`` describes the second phase (its objective predicts), the others the first one.

    ``shaping`` None leaves the blocks as they were drawn.
    """

    head: CharacterRun
    objective: Dispersion
    shaping: Training | None

    @property
    def corpus(self) -> Corpus:
        """The text of both phases."""
        return self.head.corpus


@run_function("two phases")
def run_two_phases(config: TwoPhaseRun, seed: int, place: Place) -> Outcome:
    """Shape the blocks by dispersion, freeze them, then train the head by cross-entropy.

    The curve is that of the second phase; ``shaping_updates`` counts the first.
    """
    seed_weights(seed)
    model = config.head.build().to(place.device)
    windows = config.head.windows("train"), config.head.windows("valid")
    identity, updates = f"{seed} {config.head.corpus.sha256}", 0
    if config.shaping is not None:
        # nothing is chosen in this phase: no epoch ends it early, and the last weights stay
        numbers = replace(config.shaping, patience=0, restore="last")
        blocks = [(model.blocks.parameters(), 1.0)]
        shaped = train(
            WindowWork(model, config.objective, windows, numbers, seed, blocks),
            numbers,
            path=place.folder / "checkpoint_shaping.safetensors",
            identity=identity,
        )
        updates = shaped.updates
    model.requires_grad_(False)  # nothing but the head learns from here on
    model.head.requires_grad_(True)
    numbers = config.head.training
    read = train(
        WindowWork(model, config.head.objective, windows, numbers, seed),
        numbers,
        path=place.folder / "checkpoint_head.safetensors",
        identity=identity,
        report=CurveFile(place.folder / "curve.csv"),
    )
    found = outcome(config.head, model, read)
    found.row["shaping_updates"] = updates
    return found
