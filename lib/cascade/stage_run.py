"""One trained stage: choose tokens, train on them, and score stage and base on the same tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lib.cascade.difficulty import threshold_for
from lib.cascade.evaluation import (
    applied_twice,
    boundary_mask,
    hard_mask,
    natural_perplexity,
    perplexity,
    score_handed_on,
    share,
)
from lib.cascade.features import Features
from lib.cascade.material import Material, MaterialHandle
from lib.cascade.packing import Packs, arrange, arrange_all, select
from lib.cascade.stage import new_stage, parameter_count
from lib.cascade.training import StageTraining, train
from lib.runs.task import Outcome


@dataclass(frozen=True)
class StageRun:
    """A stage and the rule that chooses its training tokens.

    ``hard_ratio`` and ``criterion`` fix the hard tokens (threshold from train); ``selection`` says
    which tokens are trained on instead (see ``packing.RULES``), ``train_tokens`` how many at most
    (0 = all of the ratio), ``text_windows`` from how much of the training text (0 = all of it).
    ``natural_windows``: validation windows scored whole, 0 = none.
    """

    material: MaterialHandle
    training: StageTraining
    criterion: str = "last_two_layers"
    hard_ratio: float = 0.1
    selection: str = "hard"
    train_tokens: int = 0
    text_windows: int = 0
    arrangement: str = "packed"
    layers: int = 2
    head: str = "scratch"
    start: str = "random"
    natural_windows: int = 0


def run(config: StageRun, seed: int, folder: Path) -> Outcome:
    """Train one stage with one seed. The row's ``test_ppl`` is of the hard tokens of test."""
    material = config.material.open()
    parts, base_head = material.features, material.base.model.lm_head.weight
    eos = material.base.tokenizer.eos_token_id
    text = shortened(parts["train"], config.text_windows or len(material.windows["train"]))
    chosen = select(
        text, config.selection, config.hard_ratio, config.criterion, config.train_tokens, seed
    )
    packs = arrange(chosen, config.arrangement, text.tokens, text.length)
    settings = config.training
    if config.arrangement == "full":  # as many counted tokens a step as in packs
        settings = replace(
            settings,
            batch=max(1, round(settings.batch * parts["train"].length * len(packs) / packs.tokens)),
        )
    values = parts["train"].scalars[config.criterion]
    threshold = threshold_for(values, config.hard_ratio, config.criterion)
    stage = new_stage(
        material.base.model.config, config.layers, config.head, config.start, base_head, seed=seed
    )

    def score(part: str) -> dict:
        mask = hard_mask(parts[part], config.criterion, threshold)
        return score_handed_on(stage, parts[part], mask, config.arrangement, eos, base_head)

    windows = config.natural_windows
    before = natural_perplexity(stage, parts["valid"], windows, base_head) if windows else None
    curve = train(
        stage,
        parts["train"].final,
        parts["train"].labels,
        packs,
        settings,
        seed,
        base_head,
        folder / "checkpoint.safetensors",
        identity=f"{material.base.sha256} {config.head} {config.start}",
        report=lambda *_: {"val_ppl": score("valid")["ppl"]},
    )
    valid, test = score("valid"), score("test")
    row = {
        **identity(material),
        "params": parameter_count(stage),
        "val_ppl": valid["ppl"],
        "test_ppl": test["ppl"],
        "threshold": threshold,
        "train_tokens": packs.tokens,
        "updates": settings.steps,
        "symbols": sum(entry["tokens"] for entry in curve),
        "natural_before_ppl": before,
        "natural_after_ppl": natural_perplexity(stage, parts["valid"], windows, base_head)
        if windows
        else None,
        **{name: test[name] for name in test if name != "ppl"},
    }
    if "wikitext" in parts:
        other = score("wikitext")
        row |= {
            f"wikitext_{name}": other[name]
            for name in ("ppl", "base_ppl", "cascade_all_ppl", "base_all_ppl")
        }
    return Outcome(row, {"curve": curve})


@dataclass(frozen=True)
class BaseTwice:
    """The base applied to its own output, on the hard tokens of test packed as seed 002 did."""

    material: MaterialHandle
    criterion: str = "last_two_layers"
    hard_ratio: float = 0.1
    natural_windows: int = 32


def run_base_twice(config: BaseTwice, seed: int, folder: Path) -> Outcome:
    """Two passes on packed hard tokens and on whole windows (its "true early exit"), beside one.

    Deterministic: the seed is not used. The row's ``test_ppl`` is the two-pass figure on the hard
    tokens, ``base_ppl`` the one-pass figure on the identical tokens.
    """
    material = config.material.open()
    features, eos = material.features["test"], material.base.tokenizer.eos_token_id
    values = material.features["train"].scalars[config.criterion]
    threshold = threshold_for(values, config.hard_ratio, config.criterion)
    mask = hard_mask(features, config.criterion, threshold)
    chosen = mask.nonzero()[:, 0]
    pieces = arrange_all(chosen, "packed", features.tokens, features.length)
    twice = applied_twice(material.base, features, pieces)
    once, inner = features.scalars["loss"][chosen], ~boundary_mask(features, eos)[chosen]
    index = torch.arange(config.natural_windows * features.length).view(-1, features.length)
    whole = applied_twice(material.base, features, [Packs(index, torch.ones_like(index).bool())])
    exits = whole["last_two_layers"] >= threshold
    row = {
        **identity(material),
        "params": material.base.parameters,
        "test_ppl": perplexity(twice["loss"]),
        "threshold": threshold,
        "hard_tokens": len(chosen),
        "base_ppl": perplexity(once),
        "base_inner_ppl": perplexity(once[inner]),
        "inner_ppl": perplexity(twice["loss"][inner]),
        "accuracy": share(twice["correct"]),
        "base_easy_ppl": perplexity(features.scalars["loss"][~mask]),
        "base_all_ppl": perplexity(features.scalars["loss"]),
        "base_all_accuracy": features.scalars["correct"].mean().item(),
        "exit_rate": exits.float().mean().item(),
        "exit_accuracy": share(whole["correct"][exits]),
        "twice_all_ppl": perplexity(whole["loss"]),
        "boundary_share": 1 - inner.float().mean().item(),
        "boundary_all_share": boundary_mask(features, eos).float().mean().item(),
    }
    return Outcome(row, {})


def shortened(features: Features, windows: int) -> Features:
    """The features of the first windows only."""
    tokens = windows * features.length
    return replace(
        features,
        final=features.final[:tokens],
        ids=features.ids[:tokens],
        labels=features.labels[:tokens],
        scalars={name: v[:tokens] for name, v in features.scalars.items()},
    )


def identity(material: Material) -> dict[str, str]:
    """The columns that say which corpus and which base a row stands on."""
    return {
        "corpus": material.corpus,
        "corpus_sha256": material.corpus_sha256,
        "base": material.base.name,
        "base_source": material.base.source,
        "base_sha256": material.base.sha256,
    }
