"""Which symbols are hard? Several judges, because the choice of the judge decides the answer.

Grouping by a last layer's loss and then reporting last layers' losses picks into "hard" what last
layers have in common: networks trained on one text share their errors. A judge that is a first
layer errs the other way. Neutral between depths are counts of pairs of symbols, and the mean over
*all* layers of another seed's network.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.character.analysis.depth_probe import splits
from lib.character.analysis.early_exit import Readings, layer_logits
from lib.character.analysis.layer_contribution import by_group, difficulty, residual_norms
from lib.text.windows import Windows
from lib.character.character_run import CharacterRun
from lib.character.kept_run import STATES, load_state
from lib.runs.task import Outcome

PAIRS, FIRST, LAST, ALL = "pairs of symbols", "first layer", "last layer", "all layers"
JUDGES = (FIRST, PAIRS, ALL, LAST)


@dataclass(frozen=True)
class Judged:
    """A trained network (its run and that run's id) and the run id of another seed's."""

    network: CharacterRun
    run_id: str
    other: str


def run(config: Judged, seed: int, folder: Path) -> Outcome:
    """Table ``judges``: loss (nats) and residual norm by judge, split, state, layer and difficulty;
    splits as in ``depth_probe``."""
    found, rows = splits(config.network), []
    for state in STATES:
        model, other = (
            load_state(config.network, folder.parent / run_id, state)
            for run_id in (config.run_id, config.other)
        )
        for split in ("valid", "report"):
            losses, states = _losses(model, found[split])
            norms = residual_norms(states)
            for judge, values in opinions(config.network, other, found[split]).items():
                where = {"state": state, "split": split, "judge": judge}
                groups = by_group(losses, norms, difficulty(values)[0])
                rows += [{**where, **row} for row in groups]
    corpus = config.network.corpus
    outcome = {"corpus": corpus.name, "corpus_sha256": corpus.sha256}
    return Outcome(outcome, {"judges": rows})


def opinions(
    network: CharacterRun, other: torch.nn.Module, windows: Windows
) -> dict[str, np.ndarray]:
    """How hard each symbol of the windows is, in nats (N,), by each of ``JUDGES``."""
    theirs, _ = _losses(other, windows)
    alphabet = network.corpus.alphabet
    train = alphabet.encode(network.corpus.train)
    return {
        FIRST: theirs[0],
        PAIRS: pair_losses(train, windows, len(alphabet)),
        ALL: np.mean(theirs, axis=0),
        LAST: theirs[-1],
    }


def pair_losses(train: Tensor, windows: Windows, symbols: int, add: float = 0.1) -> np.ndarray:
    """Nats (N,) of each target given the symbol before it, from counts of pairs in train (M,).

    ``add`` is added to every count, so that unseen pairs have a probability.
    """
    pairs = torch.bincount(train[:-1] * symbols + train[1:], minlength=symbols * symbols)
    counts = pairs.view(symbols, symbols).double() + add
    log_probability = (counts / counts.sum(1, keepdim=True)).log()
    return -log_probability[windows.inputs.flatten(), windows.targets.flatten()].numpy()


def _losses(model: torch.nn.Module, windows: Windows) -> tuple[list[np.ndarray], list[Tensor]]:
    """Loss (N,) through the shared head after each layer, and the states between them."""
    logits, states, targets = layer_logits(model, windows)
    return [Readings.of(values, targets).loss for values in logits], states
