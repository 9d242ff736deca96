"""Several stages, one after the other, and what they do to all tokens.

Stage 1 is trained on the tokens that the base's criterion calls hard; every further stage on those
of the previous stage's tokens whose cosine between its input and output is lowest. Thresholds are
quantiles of training values; validation and test use the same thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib.cascade.cost import cascade_flops
from lib.cascade.difficulty import is_hard, threshold_for
from lib.cascade.evaluation import boundary_mask, perplexity
from lib.cascade.features import Features
from lib.cascade.material import Material, MaterialHandle
from lib.cascade.modeling import CascadeForCausalLM
from lib.cascade.packing import arrange, arrange_all
from lib.cascade.serving import measure_speed, serve
from lib.cascade.stage import Stage, new_stage, parameter_count
from lib.cascade.stage_run import identity
from lib.cascade.training import StageTraining, stage_scores, train
from lib.runs.task import Outcome


@dataclass(frozen=True)
class StagedRun:
    """``stages`` stages of ``layers`` layers, each trained for ``epochs`` over its own tokens.

    ``served_windows``: test windows run through the finished model with real early exit;
    ``speed``: also measure its wall clock against the base alone.
    """

    material: MaterialHandle
    stages: int
    layers: int
    hard_ratio: float
    criterion: str
    arrangement: str
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.0
    head: str = "scratch"
    start: str = "random"
    train_tokens: int = 0
    served_windows: int = 0
    speed: bool = False


@dataclass
class _Reached:
    """The tokens of one part that reached the model at hand: where they are and its output."""

    features: Features
    position: Tensor  # int64 [n]
    states: Tensor  # [n, width]
    values: Tensor  # [n], criterion of the model at hand
    answered: Tensor  # [N], loss of the model that answers each token so far
    correct: Tensor  # [N]

    def keep(self, hard: Tensor) -> None:
        self.position, self.states = self.position[hard], self.states[hard]

    @property
    def labels(self) -> Tensor:
        return self.features.labels[self.position]


def run(config: StagedRun, seed: int, folder: Path) -> Outcome:
    """Train all stages with one seed. The row's ``test_ppl`` is of **all** test tokens; the table
    ``stages`` has a line for every number of stages from 0 on."""
    material = config.material.open()
    head = material.base.model.lm_head.weight
    parts = {
        name: _start(features, config)
        for name, features in material.features.items()
        if not name.startswith("wikitext")
    }
    hard_by_base, stages, rules, lines, curve = None, [], [], [], []
    lines.append(_line(0, None, parts, None, None, material))
    for number in range(1, config.stages + 1):
        criterion = config.criterion if number == 1 else "input_to_output"
        threshold = threshold_for(parts["train"].values, config.hard_ratio, criterion)
        handed_on = {name: is_hard(p.values, threshold, criterion) for name, p in parts.items()}
        if not _enough(handed_on, config, material):
            break
        for name, part in parts.items():
            part.keep(handed_on[name])
        if number == 1:
            hard_by_base = parts["test"].position
        rules.append({"criterion": criterion, "threshold": threshold})
        stage, rows, scores = _train_stage(config, material, parts, number, seed, folder, head)
        stages.append(stage)
        curve += [{"stage": number, **row} for row in rows]
        lines.append(_line(number, threshold, parts, scores, hard_by_base, material))
    if not stages:
        raise ValueError(
            f"hard_ratio {config.hard_ratio} leaves too few tokens for a first stage; allowed: a "
            "larger ratio or more windows"
        )
    row = {
        **identity(material),
        "params": sum(map(parameter_count, stages)),
        "val_ppl": perplexity(parts["valid"].answered),
        "test_ppl": perplexity(parts["test"].answered),
        "base_all_ppl": perplexity(material.features["test"].scalars["loss"]),
        "stages": len(stages),
        "hard_ratio": config.hard_ratio,
        "last_stage_ppl": lines[-1]["test_ppl"],
        "last_stage_base_ppl": lines[-1]["base_ppl"],
    }
    tables = {"stages": lines, "curve": curve}
    if config.served_windows:
        rates = [line["reached"] for line in lines[1:]]
        criteria = [rule["criterion"] for rule in rules]
        alone, ours = cascade_flops(material.base.model, stages, rates, criteria)
        row |= {"base_flops": alone, "cascade_flops": ours}
        tables["served"] = _served(config, material, stages, rules, hard_by_base)
        if config.speed:
            row |= measure_speed(
                _model(config, material, stages, rules), material, config.served_windows
            )
    return Outcome(row, tables)


def _enough(hard: dict[str, Tensor], config: StagedRun, material: Material) -> bool:
    """Whether a stage can be trained (one sequence) and scored (one token a part)."""
    one = material.features["train"].length if config.arrangement == "packed" else 1
    return hard["train"].sum() >= one and all(part.any() for part in hard.values())


def _start(features: Features, config: StagedRun) -> _Reached:
    return _Reached(
        features,
        torch.arange(features.tokens),
        features.final,
        features.scalars[config.criterion],
        features.scalars["loss"].clone(),
        features.scalars["correct"].clone(),
    )


def _train_stage(
    config: StagedRun,
    material: Material,
    parts: dict[str, _Reached],
    number: int,
    seed: int,
    folder: Path,
    head: Tensor,
) -> tuple[Stage, list[dict], dict]:
    """Train stage ``number`` and let it answer; ``parts`` hold its outputs afterwards."""
    own, length = parts["train"], material.features["train"].length
    chosen = torch.arange(len(own.position))
    chosen = chosen[: config.train_tokens] if config.train_tokens else chosen
    packs = arrange(chosen, config.arrangement, len(own.position), length)
    per_epoch = -(-len(packs) // config.batch)
    settings = StageTraining(
        config.epochs * per_epoch,
        config.batch,
        config.learning_rate,
        weight_decay=config.weight_decay,
        report_steps=per_epoch,
    )
    stage = new_stage(
        material.base.model.config,
        config.layers,
        config.head,
        config.start,
        head,
        seed=1000 * number + seed,
    )
    labels = own.labels

    def score(part: _Reached) -> tuple[dict, Tensor]:
        pieces = arrange_all(
            torch.arange(len(part.position)), config.arrangement, len(part.position), length
        )
        return stage_scores(stage, part.states, part.labels, pieces, head)

    curve = train(
        stage,
        own.states,
        labels,
        packs,
        settings,
        seed,
        head,
        folder / f"checkpoint-{number}.safetensors",
        identity=f"{material.base.sha256} {config.head} {config.start} stage {number}",
        report=lambda *_: {"val_ppl": perplexity(score(parts["valid"])[0]["loss"])},
    )
    scores = {}
    last = number == config.stages
    for name, part in parts.items():
        if last and name == "train":
            continue
        scores[name], outputs = score(part)
        part.answered[part.position] = scores[name]["loss"]
        part.correct[part.position] = scores[name]["correct"]
        part.values = torch.cosine_similarity(part.states, outputs, dim=-1)
        part.states = outputs
    return stage, curve, scores


def _line(number, threshold, parts, scores, hard_by_base, material) -> dict:
    """One line of the ``stages`` table: the tokens of this stage, and all tokens so far."""
    test = parts["test"]
    base = test.features.scalars
    at = test.position
    inner = ~boundary_mask(test.features, material.base.tokenizer.eos_token_id)[at]
    hard = torch.zeros(test.features.tokens, dtype=torch.bool)
    if hard_by_base is not None:
        hard[hard_by_base] = True
    return {
        "stage": number,
        "threshold": threshold,
        "train_hard": len(parts["train"].position),
        "test_hard": len(at),
        "reached": len(at) / test.features.tokens,
        "val_ppl": perplexity(scores["valid"]["loss"]) if scores else None,
        "test_ppl": perplexity(scores["test"]["loss"]) if scores else perplexity(base["loss"]),
        "base_ppl": perplexity(base["loss"][at]),
        "base_inner_ppl": perplexity(base["loss"][at][inner]),
        "all_ppl": perplexity(test.answered),
        "all_accuracy": test.correct.mean().item(),
        "hard_ppl": perplexity(test.answered[hard]),
        "easy_ppl": perplexity(test.answered[~hard]),
        "base_hard_ppl": perplexity(base["loss"][hard]),
        "base_easy_ppl": perplexity(base["loss"][~hard]),
    }


def _model(config, material, stages, rules) -> CascadeForCausalLM:
    context = "single" if config.arrangement == "single" else "compact"
    return CascadeForCausalLM.assemble(material.base, stages, rules, context)


def _served(config, material, stages, rules, hard_by_base) -> list[dict]:
    """The finished model on whole test windows: one line for every number of stages."""
    windows = material.windows["test"]
    hard = torch.zeros(windows.tokens, dtype=torch.bool)
    hard[hard_by_base] = True
    hard = hard.view(windows.inputs.shape)[: config.served_windows]
    return [
        serve(
            _model(config, material, stages[:k], rules[:k]),
            windows.first(config.served_windows),
            hard,
        )
        for k in range(len(stages) + 1)
    ]
