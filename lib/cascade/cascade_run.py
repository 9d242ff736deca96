"""A whole cascade: its stages, one run each, and what they do to all tokens, scored and served."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from lib.cascade import cascade_stage
from lib.cascade.cascade_stage import SERVED, STAGE, Cascade, CascadeStage, run_cascade_stage
from lib.cascade.cost import cascade_flops
from lib.cascade.dataset import OpenDataset
from lib.cascade.evaluation import perplexity, share
from lib.cascade.modeling import CascadeForCausalLM
from lib.cascade.stage import StageModel
from lib.runs.clock import in_turns
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.text.token_stream import TokenWindows


@dataclass(frozen=True)
class CascadeRun:
    """At most ``stages`` stages: fewer where a rule leaves no token for the next one."""

    cascade: Cascade
    stages: int


@run_function("cascade", version=2)
def run_cascade(config: CascadeRun, seed: int, place: Place) -> Outcome:
    """Train all stages with one seed. The row's ``test_ppl`` is of **all** test tokens, deferred by
    the thresholds of train (``equal_all_ppl``: exactly at the ratio); the table ``stages`` has a
    line for every number of stages from 0 on."""
    data = config.cascade.dataset.open(place.device)
    parts = cascade_stage.start(config.cascade, data)
    lines, curve, params = [cascade_stage.base_line(parts, data)], [], 0
    for _, there in _stages(config, seed, place):
        record = there.record()
        lines += record["tables"]["stages"]
        curve += record["tables"]["curve"]
        params += record["row"]["params"]
    last = lines[-1]
    row = {
        **data.identity(),
        "params": params,
        "val_ppl": last["val_all_ppl"],
        "test_ppl": last["all_ppl"],
        "test_inner_ppl": last["all_inner_ppl"],
        "equal_all_ppl": last["equal_all_ppl"],
        "base_all_ppl": lines[0]["all_ppl"],
        "base_all_inner_ppl": lines[0]["all_inner_ppl"],
        "stages": len(lines) - 1,
        "hard_ratio": config.cascade.hard_ratio,
        "last_stage_ppl": last["test_ppl"],
        "last_stage_base_ppl": last["base_ppl"],
    }
    return Outcome(row, {"stages": lines, "curve": curve})


def _stages(config: CascadeRun, seed: int, place: Place) -> list[tuple[CascadeStage, Place]]:
    """The places of all stages, trained where they are not finished."""
    found = []
    for number in range(1, config.stages + 1):
        stage = CascadeStage(config.cascade, number)
        there = place.need(run_cascade_stage, stage, seed, STAGE)
        found.append((stage, there))
        if not there.record()["row"]["further"]:
            break
    return found


def _servable(cascade: Cascade) -> None:
    """Raises ValueError for a cascade that a model cannot serve as it was trained: that sees no
    label, draws no tokens, and gives a stage only those that reach it."""
    own = {cascade.selection, cascade.criterion, cascade.arrangement}
    if refused := own & {"random", "loss", "full"}:
        raise ValueError(
            f"a cascade with {', '.join(sorted(refused))} cannot be served; allowed: selection "
            "hard, a criterion without labels, packed or single tokens"
        )


@dataclass(frozen=True)
class ServedRun:
    """A cascade that scores the first ``windows`` test windows with real early exit."""

    cascade: CascadeRun
    windows: int

    def __post_init__(self):
        _servable(self.cascade.cascade)


def _cascade(config: ServedRun | CascadeSpeed, seed: int) -> list[tuple]:
    """The cascade that is served or timed."""
    return [(run_cascade, config.cascade, seed)]


@run_function("served-cascade", version=2, starts_from=_cascade)
def run_served(config: ServedRun, seed: int, place: Place) -> Outcome:
    """The cascade's own row and tables, its operations a token, and the table ``served``: one line
    for every number of stages."""
    whole = place.starts(_cascade, config, seed)[0].record()
    data, stages, rules, first = _finished(config.cascade, seed, place)
    rates = [line["reached"] for line in whole["tables"]["stages"][1:]]
    alone, ours = cascade_flops(
        data.base.model, stages, rates, [rule["criterion"] for rule in rules]
    )
    windows = data.windows["test"]
    hard = torch.zeros(windows.tokens, dtype=torch.bool)
    hard[first] = True
    hard = hard.view(windows.inputs.shape)[: config.windows]
    served = [
        serve(
            _model(config.cascade, data, stages[:k], rules[:k]), windows.first(config.windows), hard
        )
        for k in range(len(stages) + 1)
    ]
    row = whole["row"] | {"base_flops": alone, "cascade_flops": ours}
    for name in ("seconds", "device", "code_hash", "commit", "torch"):  # of this run, not of those
        row.pop(name, None)
    return Outcome(row, {**whole["tables"], "served": served})


@torch.inference_mode()
def serve(model: CascadeForCausalLM, windows: TokenWindows, hard: torch.Tensor) -> dict:
    """Score whole windows with real early exit. ``hard`` bool [windows, length] by the base.

    Gives perplexity and accuracy on all, easy and hard tokens and the share that each model
    answers (``exit_0`` is the base).
    """
    losses, correct, answered = [], [], []
    device = model.base.device
    for ids, wanted in zip(windows.inputs.split(4), windows.labels.split(4), strict=True):
        out = model(ids.to(device))
        labels = wanted.flatten().to(device)
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


@dataclass(frozen=True)
class CascadeSpeed:
    """Wall clock of a cascade beside its base: ``prefill`` of whole windows with all logits, and
    greedy generation of ``new_tokens`` after prompts of 32, in batches of each size."""

    cascade: CascadeRun
    batches: tuple[int, ...] = (1, 8)
    new_tokens: int = 128
    repeats: int = 3

    def __post_init__(self):
        _servable(self.cascade.cascade)


@run_function("cascade-speed", version=2, starts_from=_cascade, clock=True)
def run_speed(config: CascadeSpeed, seed: int, place: Place) -> Outcome:
    """Table ``speed``: a line a batch size and kind of work, base and cascade in turns."""
    place.starts(_cascade, config, seed)
    data, stages, rules, _ = _finished(config.cascade, seed, place)
    model = _model(config.cascade, data, stages, rules)
    lines: list[dict[str, Any]] = []
    for batch in config.batches:
        inputs = data.windows["test"].inputs
        inputs = inputs.repeat(-(-batch // len(inputs)), 1)[:batch].to(place.device)
        for kind, work in (("prefill", _prefill), ("generation", _generation(config.new_tokens))):
            jobs = [
                functools.partial(work, network, inputs) for network in (data.base.model, model)
            ]
            base, ours = in_turns(jobs, config.repeats, place.device)
            lines.append(
                {
                    "batch": batch,
                    "work": kind,
                    "base_seconds": base,
                    "cascade_seconds": ours,
                    "relative_time": ours / base,
                }
            )
    return Outcome(data.identity(), {"speed": lines})


@torch.inference_mode()
def _prefill(network, inputs) -> None:
    network(inputs)


def _generation(new_tokens: int):
    def generate(network, inputs) -> None:
        prompts = inputs[:, :32]
        network.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=None,
        )

    return generate


def _finished(
    config: CascadeRun, seed: int, place: Place
) -> tuple[OpenDataset, list[StageModel], list[dict], torch.Tensor]:
    """Stages, their rules, and the test tokens that the base deferred, of a finished cascade."""
    data = config.cascade.dataset.open(place.device)
    stages, rules, first = [], [], torch.zeros(0, dtype=torch.long)
    for number, (_, there) in enumerate(_stages(config, seed, place), start=1):
        stage, held, threshold = cascade_stage.load_stage(config.cascade, data, there)
        criterion = config.cascade.criterion if number == 1 else "input_to_output"
        stages.append(stage)
        rules.append({"criterion": criterion, "threshold": threshold})
        first = held[f"test{SERVED}"]["first"]
    return data, stages, rules, first


def _model(config: CascadeRun, data: OpenDataset, stages, rules) -> CascadeForCausalLM:
    context = "single" if config.cascade.arrangement == "single" else "compact"
    return CascadeForCausalLM.assemble(data.base, stages, rules, context)
