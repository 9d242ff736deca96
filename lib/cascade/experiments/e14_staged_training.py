"""Experiment 14 (R1): what do further stages of eight layers do, at hard ratios 0.9 and 0.6?

Every stage is a run of its own that builds on the one before it. The last weights of a stage answer
and hand on, as in R1; the best ones on validation are scored beside them. Stages that start as the
base answer with their best ones, and none follows one that training made no better.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.cascade.cascade_run import CascadeRun, run_cascade
from lib.cascade.claims import (
    against_base,
    best_of_stage,
    chosen,
    epoch_change,
    of_stage,
    on_alpaca,
    stage_change,
    stage_difference,
)
from lib.cascade.dataset import LENGTH
from lib.cascade.figures.by_stage import by_stage, overfitting
from lib.cascade.parameters import (
    IMPLIED,
    QUICK_WINDOWS,
    TINY_BASE,
    ZERO_START,
    StagedParameters,
)
from lib.cascade.tables import beside_reported
from lib.cascade.variants import Variant
from lib.experiment import Experiment
from lib.results import tables
from lib.results.claims import Measure, at_epoch, change, level
from lib.results.store import Results
from lib.results.tables import one

# the size of the first committed tables: 4,096 training tokens, one epoch
SMALL = {
    "train_windows": 32,
    "valid_windows": 16,
    "test_windows": 32,
    "epochs": 1,
    "learning_rate": 3.0e-4,
    "base_head_rate": 3.0e-4,
    "seeds": 3,
}


class Exp14(StagedParameters):
    """R1's own numbers, at its two hard ratios."""

    LADDER = {**StagedParameters.LADDER, "small": SMALL}
    QUICK = {
        **SMALL,
        **QUICK_WINDOWS,
        "train_windows": 4,
        "test_windows": 2,
        "stages": 2,
        "layers": 2,
    }
    TINY = {
        **SMALL,
        **TINY_BASE,
        "train_windows": 4,
        "valid_windows": 2,
        "test_windows": 2,
        "stages": 2,
        "layers": 1,
    }

    def check(self) -> None:
        """Raises ParameterError if a packed stage finds no sequence of tokens."""
        super().check()
        if self.arrangement == "packed":
            self.check_pack(0.6, self.train_tokens)


def _cascade(label: str, ratio: float, **changes) -> Variant:
    def config(p: Exp14, dataset) -> CascadeRun:
        return CascadeRun(p.cascade(dataset, ratio, **changes), p.stages)

    factors = {"ratio": ratio, **{k: v for k, v in changes.items() if k not in IMPLIED}}
    return Variant(label, config, run_cascade, factors=factors)


VARIANTS = {
    "ratio_09": _cascade("Hard ratio 0.9", 0.9),
    "ratio_06": _cascade("Hard ratio 0.6", 0.6),
    "zero_06": _cascade("Ratio 0.6, starts as the base", 0.6, **ZERO_START),
    "zero_full_06": _cascade(
        "Ratio 0.6, starts as the base, full context", 0.6, **ZERO_START, arrangement="full"
    ),
    "random_09": _cascade("Random 0.9", 0.9, selection="random"),
    "random_06": _cascade("Random 0.6", 0.6, selection="random"),
}
COLUMNS = ("test_ppl", "base_ppl", "test_hard", "all_ppl", "reached")


def stages_table(results: Results) -> pd.DataFrame:
    """Every stage on its own tokens of test (their own quantile), the base on the same; and all
    tokens as they are served, with the share that reaches the stage then; means."""
    frame = one(results).named("stages")
    columns = [name for name in COLUMNS if name in frame]
    means = frame.groupby(["variant", "stage"], sort=False)[columns].mean()
    if "test_hard" in means:
        means["test_hard"] = means["test_hard"].round().astype(int)
    return tables.captioned(means, one(results)())


def reported_table(results: Results) -> pd.DataFrame:
    """R1's stage figures (ratio 0.9, and 0.6 from its follow-up) beside ours."""
    own = one(results)
    frame = own("stages")
    columns = [c for c in ("threshold", "val_ppl", "best_val_ppl", "all_ppl") if c in frame]
    found = frame.groupby(["variant", "stage"])[columns].mean()
    reported = {
        "ratio_09": {1: (0.1786, 84.43), 2: (0.4670, 92.65), 3: (0.5187, 96.47)},
        "ratio_06": {
            1: (0.1234, 151.90),
            2: (None, 102.45),
            3: (None, 45.72),
            4: (None, 19.05),
            5: (None, 11.54),
        },
    }
    best, rows = "best_val_ppl" if "best_val_ppl" in columns else "val_ppl", []
    for variant, by_number in reported.items():
        name = own.labels.get(variant, variant)
        for number, (threshold, ppl) in by_number.items():
            if (variant, number) in found.index:
                ours = found.loc[(variant, number)]
                rows += [
                    (f"{name}, stage {number}: threshold", threshold, ours["threshold"]),
                    (
                        f"{name}, stage {number}: best PPL of its own tokens (valid)",
                        ppl,
                        ours[best],
                    ),
                ]
    everything = (7.89, 41.83, 51.06, 54.92, 56.61, 57.02)
    for number in sorted(found.loc["ratio_06"].index):
        reference = everything[number] if number < len(everything) else None
        ours = found.loc[("ratio_06", number), "all_ppl"]
        rows.append((f"Hard ratio 0.6: ALL test tokens, {number} stages: PPL", reference, ours))
    return beside_reported(rows, own())


claim = on_alpaca("cascade_stages", "R1")
LATER = "R1's later log"  # R1 ends with the plan of ratio 0.6; its authors' log has the numbers

CLAIMS = (
    claim(
        "stage-two-worse",
        "At ratio 0.9 the second stage is worse than the first",
        stage_change("ratio_09", 1, 2, "best_val_ppl"),
        "best epochs on valid, each on its own remaining tokens, as in the report",
        expect="above",
        reported=100 * (92.65 / 84.43 - 1),
    ),
    claim(
        "threshold-rises",
        "The threshold rises from stage to stage (the report: states change less)",
        stage_difference("ratio_09", 2, 1, "threshold"),
        "stage 2 minus stage 1: of two cosines, base (h0, h30) and stage (in, out)",
        expect="above",
        reported=0.4670 - 0.1786,
        unit="cosine",
    ),
    claim(
        "over-fits",
        "At ratio 0.9 a second epoch makes the second stage worse: it over-fits",
        epoch_change("ratio_09", 2, 1, 2),
        "valid, its own remaining tokens, epoch 2 against epoch 1, after which R1 stopped",
        expect="above",
        reported=100 * (97.44 / 92.65 - 1),
    ),
    claim(
        "over-fits-six",
        "At ratio 0.6 a second epoch makes the second stage worse too",
        epoch_change("ratio_06", 2, 1, 2),
        "the same comparison; training stops at the first epoch that gains nothing",
        expect="above",
        explains="over-fits",
    ),
    claim(
        "smaller-ratio",
        "At ratio 0.6 later stages have lower perplexities (the third against the first)",
        stage_change("ratio_06", 1, 3, "best_val_ppl"),
        "stage 3 against stage 1: best epochs on valid, each on its own tokens",
        reported=100 * (45.72 / 151.9 - 1),
        source=LATER,
    ),
    claim(
        "smaller-ratio-base",
        "The tokens of later stages are not easier for the base too",
        stage_change("ratio_06", 1, 3, "base_ppl"),
        "base on the tokens of stage 3 against stage 1 (test; the stages' own figure: valid)",
        expect="above",
        explains="smaller-ratio",
    ),
    claim(
        "worsens-all",
        "The cascade makes the perplexity of all tokens worse (ratio 0.6)",
        against_base("ratio_06", "test_ppl", "base_all_ppl"),
        "all test tokens after all five stages, each by the model at which it stops",
        reported=100 * (57.02 / 7.89 - 1),
        source=LATER,
        expect="above",
    ),
    claim(
        "improves-all-nine",
        "The cascade improves the perplexity of all tokens (ratio 0.9)",
        against_base("ratio_09", "test_ppl", "base_all_ppl"),
        "all test tokens, each answered by the model at which it stops",
        kind="own",
    ),
    claim(
        "improves-all-base",
        "A cascade whose stages start as the base improves all tokens",
        against_base("zero_06", "test_ppl", "base_all_ppl"),
        "base's frozen head, a zero-initialised residual start, best weights on valid",
        kind="own",
    ),
    claim(
        "improves-all-context",
        "A cascade whose stages start as the base and read the whole text improves all tokens",
        against_base("zero_full_06", "test_ppl", "base_all_ppl"),
        "full context, a whole window an update, instead of single tokens",
        kind="own",
    ),
    claim(
        "selection-nine",
        "Deferring tokens by the cosine is better than deferring random ones (ratio 0.9)",
        change("ratio_09", "random_09", "equal_all_ppl"),
        "all test tokens, of which each defers exactly the ratio; equal stages",
        explains="worsens-all",
    ),
    claim(
        "selection-six",
        "Deferring tokens by the cosine is better than deferring random ones (ratio 0.6)",
        change("ratio_06", "random_06", "equal_all_ppl"),
        "all test tokens, of which each defers exactly the ratio; equal stages",
        explains="worsens-all",
    ),
)

STAGES = {1: 3, 2: 2, 3: 1}  # of the report, and the epochs of each


def one_stage(results: Results) -> np.ndarray:
    """Parameters of a stage: all are equally large."""
    whole, count = (level("ratio_09", name)(results) for name in ("params", "stages"))
    return whole / count


def beside_stage(stage: int) -> dict[tuple[str, str], Measure]:
    """Measures beside the report's table and training log of a stage."""
    row = f"stage {stage}"
    found = {
        (row, "cos_sim_threshold"): of_stage("ratio_09", stage, "threshold"),
        (row, "train_hard"): of_stage("ratio_09", stage, "train_hard"),
        (row, "params"): one_stage,
    }
    if stage < max(STAGES):  # the report broke off the last one after its first epoch
        found[row, "best_val_ppl"] = best_of_stage("ratio_09", stage, "val_ppl")
        found[row, "best_epoch"] = best_of_stage("ratio_09", stage, "epoch")
    columns = {"train_loss": "train_loss", "val_loss": "valid_loss", "val_ppl": "val_ppl"}
    return found | {
        (f"{row} epoch {epoch}", metric): at_epoch("ratio_09", column, epoch, stage=stage)
        for epoch in range(1, STAGES[stage] + 1)
        for metric, column in columns.items()
    }


BESIDE = {
    ("base", "train_tokens"): of_stage("ratio_09", 0, "train_hard"),
    ("base", "val_tokens"): chosen(Exp14, lambda p: p.valid_windows * LENGTH),
    **{key: measure for stage in STAGES for key, measure in beside_stage(stage).items()},
}
REMARKS = {
    "base: val_tokens": "a parameter",
    "base: params": "the base itself, frozen; Experiment 12 counts it",
    "base: layers": "the base itself, frozen; no table counts its layers",
    "stage ?: val_hard": "our tables count the tokens of test that reach a stage, not those of"
    " valid",
    "stage ?*: seconds": "no run of ours clocks a stage or an epoch alone",
}

E14 = Experiment(
    slug="14_staged_training",
    question="What do further stages of eight layers do, at hard ratios of 0.9 and 0.6?",
    parameters=Exp14,
    texts=Exp14.texts,
    variants=VARIANTS,
    baseline="ratio_09",
    report="cascade_stages",
    figures={
        "own": by_stage(
            {"test_ppl": "stage", "base_ppl": "base, same tokens"},
            "Each stage on the tokens that reach it (different tokens each time)",
            against="base_ppl",
        ),
        "all": by_stage({"all_ppl": "all tokens"}, "All test tokens, by the number of stages"),
        "epochs": overfitting("Further epochs"),
    },
    claims=CLAIMS,
    beside=BESIDE,
    remarks=REMARKS,
)
