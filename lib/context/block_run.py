"""The trained block as a run of its own, which everything that stands on it shares by its key.

Kept: ``block.safetensors`` with the weights, the last table of Phase 1 and the context that token 0
saw last.
"""

from dataclasses import dataclass

from torch import Tensor

from lib.context.block import ContextBlock
from lib.context.phase_one import run_phase_one
from lib.context.sources import Recurrent
from lib.context.token_stream import TrainingText, training_stream
from lib.runs import files
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.runs.tensors import load_tensors, save_tensors

KEPT = "block.safetensors"


@dataclass(frozen=True)
class BlockRun:
    """A training text and a cell with a Phase 1."""

    data: TrainingText
    cell: Recurrent


@dataclass(frozen=True)
class TrainedBlock:
    """A block after Phase 1, or random: then there is no table, no start and an empty curve."""

    block: ContextBlock
    row: dict
    curve: list[dict]
    table: Tensor | None = None
    start: Tensor | None = None


@run_function("context_block")
def run_block(config: BlockRun, seed: int, place: Place) -> Outcome:
    """Phase 1 on the training text; kill-exact from iteration to iteration."""
    x = training_stream(config.data).embedded
    # the table, what it is made from, and a checkpoint of it
    files.budgeted(place.folder, 3 * 4 * x.shape[0] * config.cell.width, "the table of Phase 1")
    block = config.cell.block(x.shape[1], seed).to(place.device)
    path = place.folder / "checkpoint.safetensors"
    identity = f"{config.data.corpus.sha256} {len(x)}"
    found = run_phase_one(block, x, config.cell.phase_one, seed, path, identity)
    state = {f"block/{name}": value for name, value in block.state_dict().items()}
    save_tensors(place.folder / KEPT, {**state, "table": found.table, "start": found.start})
    row = {
        "corpus": config.data.corpus.name,
        "corpus_sha256": config.data.corpus.sha256,
        "tokens": len(x),
        "iterations": found.iterations,
        "phase_one_converged": found.converged,
        "phase_one_seconds": found.seconds,
    }
    return Outcome(row, {"phase_one": found.curve})


def trained_block(choice: Recurrent, data: TrainingText, seed: int, place: Place) -> TrainedBlock:
    """The block of a choice, on the CPU: random, or out of its run, which is made if need be.

    A kept file that is damaged is set aside, said aloud, and made again.
    """
    width = data.token_width
    block = choice.block(width, seed)
    if choice.phase_one is None:
        return TrainedBlock(block, {"iterations": 0, "phase_one_seconds": 0.0}, [])
    config, kept = BlockRun(data, choice.cell()), None
    while not kept:
        there = place.need(run_block, config, seed, KEPT)
        kept = files.kept(there.folder / KEPT, load_tensors)
    tensors = kept[0]
    table, start = tensors.pop("table").clone(), tensors.pop("start").clone()  # aligned
    block.load_state_dict({name.removeprefix("block/"): t for name, t in tensors.items()})
    record = there.record()
    named = ("iterations", "phase_one_converged", "phase_one_seconds")
    row = {name: record["row"][name] for name in named}
    return TrainedBlock(block, row, record["tables"]["phase_one"], table, start)
