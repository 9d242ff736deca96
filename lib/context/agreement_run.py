"""Parallel against sequential contexts by the seed's protocol, for one block.

Phase 1 ends with the table P, made with noise from the iterate before it and with the weights
before the last step. The exact recurrence S runs without noise, with the final weights, from the
context that token 0 saw in the last iteration. Rows 0 .. N-2 are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from lib.context.agreement import agreement, by_position
from lib.context.contexts import sequential, shifted, sweep
from lib.context.effective_rank import rank_shares
from lib.context.forgetting import forgetting_curve, memory_tokens, noise_gain
from lib.context.language_run import corpus_columns
from lib.context.phase_one import run_phase_one
from lib.context.sources import Recurrent
from lib.context.token_stream import StreamChoice, load_streams
from lib.runs.task import Outcome


@dataclass(frozen=True)
class AgreementRun:
    """A text and a block; sweeps 1 .. `sweeps` with the final weights are compared as well."""

    data: StreamChoice
    contexts: Recurrent
    sweeps: int = 8


def run(config: AgreementRun, seed: int, folder: Path) -> Outcome:
    """Agreement of the Phase 1 table, of clean sweeps, and how fast the cell forgets."""
    streams = load_streams(config.data)
    x = streams.train.embedded
    choice = config.contexts
    if choice.phase_one is None:
        raise ValueError("the comparison needs a Phase 1 (its learning rate may be 0)")
    block = choice.block(x.shape[1], seed)
    result = run_phase_one(block, x, choice.phase_one, seed)
    start = result.previous[-1]
    exact = sequential(block, x[:-1], start)
    table = result.table[:-1]
    forgotten = forgetting_curve(block, x)
    clean, sweeps = torch.zeros_like(exact), []
    for number in range(1, config.sweeps + 1):
        clean = sweep(block, shifted(clean, start), x[:-1])
        sweeps.append({"sweep": number, **agreement(clean, exact)})
    row = corpus_columns(config.data, streams) | {
        "params": sum(p.numel() for p in block.parameters()),
        "iterations": result.iterations,
        "phase_one_converged": result.converged,
        **agreement(table, exact),
        **rank_shares(exact),
        "noise_gain": noise_gain(block, x),
        "memory_tokens": memory_tokens(forgotten),
        "cos_after_3": forgotten[3]["cos"],
    }
    return Outcome(
        row,
        {
            "positions": by_position(table, exact),
            "sweeps": sweeps,
            "forgetting": forgotten,
            "phase_one": result.curve,
        },
    )
