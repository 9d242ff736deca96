"""The finished model at work: perplexity, who answers, and the wall clock against the base."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lib.cascade.evaluation import perplexity, share
from lib.cascade.material import Material
from lib.cascade.modeling import CascadeForCausalLM
from lib.text.token_stream import TokenWindows


@torch.inference_mode()
def serve(model: CascadeForCausalLM, windows: TokenWindows, hard: Tensor, batch: int = 4) -> dict:
    """Score whole windows with real early exit. ``hard`` bool [windows, length] by the base.

    Gives perplexity and accuracy on all, easy and hard tokens and the share that each model
    answers (``exit_0`` is the base).
    """
    losses, correct, answered = [], [], []
    for start in range(0, len(windows), batch):
        rows = slice(start, start + batch)
        out = model(windows.inputs[rows])
        labels = windows.labels[rows].flatten()
        logits = out.logits.flatten(0, 1)
        losses.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none"))
        correct.append((logits.argmax(1) == labels).float())
        answered.append(out.answered_by.flatten())
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


def measure_speed(
    model: CascadeForCausalLM,
    material: Material,
    windows: int,
    new_tokens: int = 8,
    repeats: int = 2,
) -> dict[str, float]:
    """Least seconds of prefill and of generation, cascade and base alone in turns.

    Prefill: 2 test windows with all logits. Generation: greedy, ``new_tokens`` for 2 prompts of 32.
    """
    inputs = material.windows["test"].inputs[: min(2, windows)]
    prompts = inputs[:, :32]
    settings = {
        "max_new_tokens": new_tokens,
        "do_sample": False,
        "eos_token_id": None,
        "attention_mask": torch.ones_like(prompts),
    }
    base = material.base.model
    jobs: dict[str, Callable] = {}
    for name, network in (("base", base), ("cascade", model)):
        jobs[f"{name}_prefill_seconds"] = lambda network=network: network(inputs)
        jobs[f"{name}_generate_seconds"] = lambda network=network: _generate(
            network, prompts, settings
        )
    found = {name: [] for name in jobs}
    with torch.inference_mode():
        for _ in range(repeats):
            for name, job in jobs.items():
                started = time.perf_counter()
                job()
                found[name].append(time.perf_counter() - started)
    return {name: min(values) for name, values in found.items()}


def _generate(network: PreTrainedModel, prompts: Tensor, settings: dict) -> Tensor:
    return network.generate(prompts, **settings)
