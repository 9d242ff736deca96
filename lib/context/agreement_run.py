"""Parallel against sequential contexts by the protocol of R3, for one block.

Phase 1 ends with the table P, made with noise from the iterate before it and with the weights
before the last step. The exact recurrence S runs without noise, with the final weights, from the
context that token 0 saw in the last iteration. Rows 0 .. N-2 are compared.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.context.block_run import trained_block
from lib.context.contexts import relative_error, sequential, shifted, sweep
from lib.context.effective_rank import rank_shares
from lib.context.forgetting import forgetting_curve, memory_tokens, noise_gain
from lib.context.language_run import corpus_columns
from lib.context.sources import Recurrent
from lib.context.token_stream import StreamChoice, load_streams
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place


def agreement(parallel: Tensor, exact: Tensor) -> dict[str, float]:
    """Two tables [N, D] -> cos_mean, cos_min, mse, rel_err (mean of |P-S|/|S| over rows).

    Raises ValueError when the shapes differ.
    """
    if parallel.shape != exact.shape:
        raise ValueError(f"tables differ in shape: {parallel.shape} and {exact.shape}")
    cosine = torch.cosine_similarity(parallel, exact, dim=1)
    gap = parallel - exact
    return {
        "cos_mean": cosine.mean().item(),
        "cos_min": cosine.min().item(),
        "mse": gap.square().mean().item(),
        "rel_err": relative_error(parallel, exact),
    }


def by_position(parallel: Tensor, exact: Tensor) -> list[dict]:
    """Agreement of the first, the middle and the last 100 tokens (whole table if shorter)."""
    n = exact.shape[0]
    size = min(100, n)
    middle = max(0, (n - size) // 2)
    places = {"first": 0, "middle": middle, "last": n - size}
    return [
        {"position": name, "tokens": size} | agreement(parallel[i : i + size], exact[i : i + size])
        for name, i in places.items()
    ]


@dataclass(frozen=True)
class AgreementRun:
    """A text and a block; sweeps 1 .. `sweeps` with the final weights are compared as well."""

    data: StreamChoice
    contexts: Recurrent
    sweeps: int = 8

    def __post_init__(self) -> None:
        if self.contexts.phase_one is None:
            raise ValueError("the comparison needs a Phase 1 (its learning rate may be 0)")


@run_function("context_agreement")
def run_agreement(config: AgreementRun, seed: int, place: Place) -> Outcome:
    """Agreement of the Phase 1 table, of clean sweeps, and how fast the cell forgets."""
    streams = load_streams(config.data)
    x = streams.train.embedded
    trained = trained_block(config.contexts, config.data.training(), seed, place)
    block, start, table = trained.block, trained.start, trained.table[:-1]
    exact = sequential(block, x[:-1], start)
    forgotten = forgetting_curve(block, x)
    clean, sweeps = torch.zeros_like(exact), []
    for number in range(1, config.sweeps + 1):
        clean = sweep(block, shifted(clean, start), x[:-1])
        sweeps.append({"sweep": number, **agreement(clean, exact)})
    row = corpus_columns(config.data, streams) | {
        "params": sum(p.numel() for p in block.parameters()),
        "iterations": trained.row["iterations"],
        "phase_one_converged": trained.row["phase_one_converged"],
        **agreement(table, exact),
        **rank_shares(exact),
        "noise_gain": noise_gain(block, x),
        "memory_tokens": memory_tokens(forgotten),
        "cos_after_3": forgotten[3]["cos"],
    }
    tables = {
        "positions": by_position(table, exact),
        "sweeps": sweeps,
        "forgetting": forgotten,
        "phase_one": trained.curve,
    }
    return Outcome(row, tables)
