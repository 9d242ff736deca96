"""Speed and agreement of drafting from an exit, beside plain generation of the same network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lib.depth.evaluation import Row
from lib.depth.generation import Session, write
from lib.depth.llama import Llama
from lib.depth.methods import Method
from lib.depth.modeling import plain_model
from lib.depth.network import KEPT, DepthRun, load_network, run_learning
from lib.depth.speculative import Count, Drafter, frequent
from lib.runs.clock import in_turns
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place

ENGINES = ("ours", "transformers")


@dataclass(frozen=True)
class Speculative:
    """Which network drafts from which exit, and on what it is timed.

    ``words``: so many of the most frequent tokens of the training text may be drafted (0: all).
    ``engine`` ``transformers`` runs its own assisted generation with ``assistant_early_exit``
    (batches of 1 only). Prompts are windows of each test text, one after the other where one is
    too short.
    """

    network: DepthRun
    exit: int
    tokens: int = 4
    words: int = 0
    engine: str = "ours"
    batches: tuple[int, ...] = (1, 4)
    prompts: tuple[int, ...] = (32, 256)
    written: int = 128
    rounds: int = 2
    LIBRARIES: ClassVar[tuple[str, ...]] = ("transformers",)

    def __post_init__(self):
        if self.engine not in ENGINES:
            raise ValueError(f"engine is {self.engine!r}; allowed: {', '.join(ENGINES)}")


def _network(config: Speculative, seed: int) -> list[tuple]:
    """The network that drafts and writes."""
    return [(run_learning, config.network, seed, KEPT)]


@run_function("depth-speculative", version=2, starts_from=_network)
def run_speculative(config: Speculative, seed: int, place: Place) -> Outcome:
    """Rows of ``decoding``: a text, batch and prompt length each; the first round is not timed."""
    there = place.starts(_network, config, seed)[0]
    llama, _ = load_network(config.network, there)
    trained = there.record()
    model = plain_model(config.network.base.load().model, llama)
    model.generation_config.eos_token_id = None  # every text is as long as was asked
    model.generation_config.pad_token_id = 0
    words = None
    if config.words:
        train_ids = config.network.text.joined("train").ids
        words = frequent(train_ids, config.words, len(llama.head)).to(place.device)
    found = []
    for batch in config.batches:
        for length in config.prompts:
            for name in config.network.text.texts:
                ids = prompts(config, name, batch, length).to(place.device)
                own = {"text": name, "batch": batch, "prompt": length}
                if config.engine == "ours" or batch == 1:
                    found.append(own | _timed(config, llama, model, words, ids))
    row = {
        "corpus": config.network.text.name,
        "corpus_sha256": config.network.text.sha256,
        "params": trained["row"]["params"],
        "speedup": _mean(found, "speedup"),
        "acceptance": _mean(found, "acceptance"),
        "equal": min(r["equal"] for r in found),
    }
    return Outcome(row, {"decoding": found})


def prompts(config: Speculative, text: str, batch: int, length: int) -> Tensor:
    """Prompts [batch, length] from the start of a test text."""
    ids = config.network.text.parts[text]["test"].inputs
    each = -(-length // ids.shape[1])
    if batch * each > len(ids):
        raise ValueError(f"{text}: {len(ids)} windows give no {batch} prompts of {length} tokens")
    return ids[: batch * each].reshape(batch, -1)[:, :length]


def _timed(config: Speculative, llama: Llama, model, words: Tensor | None, ids: Tensor) -> Row:
    """Seconds and agreement of plain and of drafted generation; they take turns."""
    outputs: dict[str, Tensor] = {}
    counts: list[Count] = []

    def theirs(**own):
        with torch.inference_mode():
            new = model.generate(ids, max_new_tokens=config.written, do_sample=False, **own)
        return new[:, ids.shape[1] :]

    def drafted():
        if config.engine == "transformers":
            return theirs(assistant_early_exit=config.exit)
        found, count = Drafter(llama, config.exit, config.tokens, words).write(ids, config.written)
        counts.append(count)
        return found

    calls: dict[str, Callable[[], Tensor]] = {
        "transformers": theirs,
        "ours": lambda: write(Session(llama, Method(len(llama.layers))), ids, config.written),
        "drafted": drafted,
    }

    def kept(name: str) -> None:
        outputs[name] = calls[name]()

    seconds = in_turns([lambda n=name: kept(n) for name in calls], config.rounds, ids.device)
    speed = dict(zip(calls, seconds, strict=True))
    row = {f"{name}_tokens_a_second": len(ids) * config.written / s for name, s in speed.items()}
    # speed-up over the faster of the two that do not draft
    row["speedup"] = min(speed["transformers"], speed["ours"]) / speed["drafted"]
    row["equal"] = (outputs["drafted"] == outputs["transformers"]).double().mean().item()
    row["acceptance"] = row["tokens_a_round"] = None
    if counts and counts[-1].drafted:
        row["acceptance"] = counts[-1].accepted / counts[-1].drafted
        row["tokens_a_round"] = (config.written - 1) / counts[-1].rounds
    return row


def _mean(rows: list[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return sum(values) / len(values) if values else None
