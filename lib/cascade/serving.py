"""The finished model at work: perplexity, who answers, and the wall clock against the base."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lib.cascade.evaluation import perplexity, share
from lib.cascade.modeling import CascadeForCausalLM
from lib.text.token_stream import TokenWindows


@torch.inference_mode()
def serve(model: CascadeForCausalLM, windows: TokenWindows, hard: Tensor, batch: int = 4) -> dict:
    """Score whole windows with real early exit. ``hard`` bool [windows, length] by the base.

    Gives perplexity and accuracy on all, easy and hard tokens and the share that each model
    answers (``exit_0`` is the base).
    """
    losses, correct, answered = [], [], []
    device = model.base.device
    for start in range(0, len(windows), batch):
        rows = slice(start, start + batch)
        out = model(windows.inputs[rows].to(device))
        labels = windows.labels[rows].flatten().to(device)
        logits = out.logits.flatten(0, 1)
        losses.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none").cpu())
        correct.append((logits.argmax(1) == labels).float().cpu())
        answered.append(out.answered_by.flatten().cpu())
    loss, right, by = torch.cat(losses), torch.cat(correct), torch.cat(answered)
    line = {"stage": len(model.stages)}
    for name, mask in (
        ("all", torch.ones_like(by).bool()),
        ("easy", ~hard.flatten()),
        ("hard", hard.flatten()),
    ):
        line |= {
            f"{name}_ppl": perplexity(loss[mask]),
            f"{name}_accuracy": share(right[mask]),
        }
    return line | {
        f"exit_{k}": (by == k).float().mean().item() for k in range(len(model.stages) + 1)
    }


@torch.inference_mode()
def interleaved_seconds(jobs: Sequence[Callable[[], None]], repeats: int) -> list[float]:
    """Median seconds of each job, the jobs in turns, after a first round that is not counted."""
    found: list[list[float]] = [[] for _ in jobs]
    for number in range(repeats + 1):
        for job, seconds in zip(jobs, found, strict=True):
            started = time.perf_counter()
            job()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in found]
