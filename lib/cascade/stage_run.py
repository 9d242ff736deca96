"""One trained stage: choose tokens, train on them, and score stage and base on the same tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lib.cascade.dataset import OpenDataset, TokenDataset
from lib.cascade.difficulty import threshold_for
from lib.cascade.evaluation import (
    boundary_mask,
    hard_mask,
    natural_perplexity,
    score_deferred,
)
from lib.cascade.packing import Packs, arrange, select
from lib.cascade.single_token import SingleTokenWork
from lib.cascade.stage import new_stage, parameter_count
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.training.loop import Training, train

WIKITEXT_COLUMNS = ("ppl", "base_ppl", "cascade_all_ppl", "base_all_ppl")


@dataclass(frozen=True)
class StageRun:
    """A stage and the rule that chooses its training tokens.

    ``hard_ratio`` and ``criterion`` fix the hard tokens (threshold from train); ``selection`` says
    which tokens are trained on instead (see ``packing.RULES``), ``train_tokens`` how many at most
    (0 = all of the ratio), ``text_windows`` from how much of the training text (0 = all of it),
    ``without_ends`` that no end of a record is among them. ``natural_windows``: validation windows
    scored whole, 0 = none. A batch of ``training`` is of packs (single tokens), or, where a stage
    reads in full context, of as many windows as hold as many trained tokens.
    """

    dataset: TokenDataset
    training: Training
    criterion: str = "last_two_layers"
    hard_ratio: float = 0.1
    selection: str = "hard"
    train_tokens: int = 0
    text_windows: int = 0
    without_ends: bool = False
    arrangement: str = "packed"
    layers: int = 2
    head: str = "scratch"
    start: str = "random"
    natural_windows: int = 0


def windows_a_step(packs: Packs, length: int, batch: int, arrangement: str) -> int:
    """Sequences of a step: ``batch``, or windows that hold the trained tokens of ``batch`` packs
    (of ``batch`` tokens where ``length`` is 1)."""
    if arrangement != "full":
        return batch
    return max(1, round(batch * length * len(packs) / packs.tokens))


@run_function("stage")
def run_stage(config: StageRun, seed: int, place: Place) -> Outcome:
    """Train one stage with one seed. The row's ``test_ppl`` is of the hard tokens of test.

    Columns ``last_*`` are of the weights after the last update, the others of those that
    ``training`` restores.
    """
    data = config.dataset.open(place.device)
    base_head, eos = data.base.model.lm_head.weight, data.base.tokenizer.eos_token_id
    features = {part: data.features(part) for part in ("train", "valid", "test")}
    packs = chosen_packs(config, data, seed)
    values = features["train"].scalars[config.criterion]
    threshold = threshold_for(values, config.hard_ratio, config.criterion)
    stage = new_stage(
        data.base.model.config, config.layers, config.head, config.start, base_head, seed=seed
    ).to(place.device)

    def score(part: str) -> dict:
        own = data.features(part)
        mask = hard_mask(own, config.criterion, threshold)
        return score_deferred(stage, own, mask, config.arrangement, eos, base_head)

    def valid() -> dict:
        found = score("valid")
        return {"valid_loss": found["loss"], "valid_inner_ppl": found["inner_ppl"]}

    windows = config.natural_windows
    before = natural_perplexity(stage, features["valid"], windows, base_head) if windows else None
    training = config.training
    length = 1 if config.arrangement == "single" else features["train"].length
    batch = windows_a_step(packs, length, training.batch_size, config.arrangement)
    states, labels = features["train"].final, features["train"].labels
    work = SingleTokenWork(stage, states, labels, packs, batch, seed, base_head, valid)
    fit = train(
        work,
        training,
        path=place.folder / "checkpoint.safetensors",
        identity=f"{seed} {config.dataset.sha256}",
    )
    own, test = score("valid"), score("test")
    row = {
        **data.identity(),
        "params": parameter_count(stage),
        "best_epoch": fit.best_epoch,
        "best_updates": fit.best_updates,
        "val_ppl": own["ppl"],
        "val_inner_ppl": own["inner_ppl"],
        "test_ppl": test["ppl"],
        "threshold": threshold,
        "train_tokens": packs.tokens,
        "updates": fit.updates,
        "symbols": fit.symbols,
        "natural_before_ppl": before,
        "natural_after_ppl": natural_perplexity(stage, features["valid"], windows, base_head)
        if windows
        else None,
        **{name: test[name] for name in test if name not in ("ppl", "loss")},
    }
    if "wikitext" in data.windows:
        other = score("wikitext")
        row |= {f"wikitext_{name}": other[name] for name in WIKITEXT_COLUMNS}
    if training.restore == "best":
        stage.load_state_dict(fit.last)
        for part, name in (("valid", "val"), ("test", "test")):
            last = score(part)
            row |= {f"last_{name}_ppl": last["ppl"], f"last_{name}_inner_ppl": last["inner_ppl"]}
    return Outcome(row, {"curve": fit.curve})


def chosen_packs(config: StageRun, data: OpenDataset, seed: int) -> Packs:
    """The sequences that a run trains on, as positions in the training text of ``data``."""
    whole = data.features("train")
    text = whole.windows(0, config.text_windows) if config.text_windows else whole
    ends: Tensor | None = None
    if config.without_ends:
        ends = boundary_mask(text, data.base.tokenizer.eos_token_id)
    chosen = select(
        text,
        config.selection,
        config.hard_ratio,
        config.criterion,
        config.train_tokens,
        seed,
        ends,
    )
    return arrange(chosen, config.arrangement, text.tokens, text.length)
