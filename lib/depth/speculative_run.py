"""Speed and agreement of drafting from an exit, beside plain generation of the same network."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from lib.depth.evaluation import Row
from lib.depth.generation import Session, repetition, write
from lib.depth.llama import Llama
from lib.depth.methods import Method
from lib.depth.modeling import plain_model
from lib.depth.network import KEPT, DepthRun, load_network, run_learning
from lib.depth.speculative import Copier, Count, Drafter, Speculation, frequent
from lib.runs import files
from lib.runs.clock import in_turns
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place

ENGINES = ("ours", "transformers")
WARM = 8  # tokens that each way writes before it is timed
# transformers draws from the network's own distribution
DRAWN = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}


@dataclass(frozen=True)
class Way:
    """How drafts are made: up to ``tokens`` a round after layer ``exit`` (0: copied from the text).

    ``words``: so many of the most frequent tokens of the training text may be drafted (0: all).
    ``sure``: the chance below which a round drafts no further (0: it always does). ``engine``
    ``transformers`` runs its own assisted generation with ``assistant_early_exit``, which chooses
    the number of drafts itself (batches of 1 only). ``drawn``: text is drawn from the network, not
    the likeliest of it; so is the plain generation that it is compared with.
    """

    exit: int
    tokens: int = 4
    words: int = 0
    sure: float = 0.0
    engine: str = "ours"
    drawn: bool = False

    def __post_init__(self):
        if self.engine not in ENGINES:
            raise ValueError(f"engine is {self.engine!r}; allowed: {', '.join(ENGINES)}")
        if self.exit < 0 or self.tokens < 1 or self.words < 0 or not 0 <= self.sure <= 1:
            raise ValueError(
                f"{self} cannot draft; allowed: an exit from 0, at least 1 token, words from 0, a "
                "chance from 0 to 1 to be sure"
            )
        if (self.words or self.sure) and not (self.exit and self.engine == "ours"):
            raise ValueError(
                f"{self} reads no exit of ours, so words and sure would do nothing; allowed: 0"
            )


@dataclass(frozen=True)
class Speculative:
    """A network, and the ways of drafting that take turns with its plain generation.

    Prompts are windows of each test text, one after the other where one is too short. ``threads``:
    cores that all of them use.
    """

    network: DepthRun
    ways: tuple[Way, ...]
    batches: tuple[int, ...] = (1, 4)
    prompts: tuple[int, ...] = (32, 256)
    written: int = 128
    rounds: int = 2
    threads: int = 2
    LIBRARIES: ClassVar[tuple[str, ...]] = ("transformers",)
    VERSION: ClassVar[int] = 3

    def __post_init__(self):
        deepest = self.network.method.layers - 1
        for way in self.ways:
            if way.exit > deepest or (way.engine == "transformers" and not way.exit):
                raise ValueError(f"{way} has no layers to check it; allowed: exits 1 to {deepest}")


@dataclass(frozen=True)
class OneWay:
    """The numbers of one of the ways."""

    timed: Speculative
    way: int
    LIBRARIES: ClassVar[tuple[str, ...]] = ("transformers",)


def _network(config: Speculative, seed: int) -> list[tuple]:
    """The network that drafts and writes."""
    return [(run_learning, config.network, seed, KEPT)]


@run_function("depth-speculative", version=5, starts_from=_network, clock=True)
def run_speculative(config: Speculative, seed: int, place: Place) -> Outcome:
    """Rows of ``ways``: a way, text, batch and prompt length each.

    What is timed is kept as it comes, so that an interrupted run goes on there.
    """
    there = place.starts(_network, config, seed)[0]
    llama, _ = load_network(config.network, there)
    model = plain_model(config.network.base.load().model, llama)
    model.generation_config.eos_token_id = None  # every text is as long as was asked
    model.generation_config.pad_token_id = 0
    timed = place.folder / "checkpoint_ways.json"
    found = files.kept(timed, files.read_record, "all is timed again") or []
    for batch, length, name in product(config.batches, config.prompts, config.network.text.texts):
        own = {"text": name, "batch": batch, "prompt": length}
        if any(own.items() <= row.items() for row in found):
            continue
        ids = prompts(config, name, batch, length).to(place.device)
        found += [own | row for row in _timed(config, llama, model, ids, seed)]
        files.write_record(timed, found)
    row = {
        "corpus": config.network.text.name,
        "corpus_sha256": config.network.text.sha256,
        "params": there.record()["row"]["params"],
    }
    return Outcome(row, {"ways": found})


def _timing(config: OneWay, seed: int) -> list[tuple]:
    """All ways by turns."""
    return [(run_speculative, config.timed, seed)]


@run_function("depth-speculative-way", version=3, starts_from=_timing, clock=True)
def run_way(config: OneWay, seed: int, place: Place) -> Outcome:
    """Rows of ``decoding`` of one way; in its row their means in batches of 1, which all have."""
    record = place.starts(_timing, config, seed)[0].record()
    found = [dict(row) for row in record["tables"]["ways"] if row["way"] == config.way]
    for row in found:
        del row["way"]
    kept = {name: record["row"][name] for name in ("corpus", "corpus_sha256", "params")}
    single = [row for row in found if row["batch"] == 1]
    row = {
        **kept,
        "speedup": _mean(single, "speedup"),
        "acceptance": _mean(single, "acceptance"),
        "equal": min((r["equal"] for r in found if r["equal"] is not None), default=None),
    }
    return Outcome(row, {"decoding": found})


def prompts(config: Speculative, text: str, batch: int, length: int) -> Tensor:
    """Prompts [batch, length] from the start of a test text."""
    ids = config.network.text.parts[text]["test"].inputs
    each = -(-length // ids.shape[1])
    if batch * each > len(ids):
        raise ValueError(f"{text}: {len(ids)} windows give no {batch} prompts of {length} tokens")
    return ids[: batch * each].reshape(batch, -1)[:, :length]


def _timed(config: Speculative, llama: Llama, model, ids: Tensor, seed: int) -> list[Row]:
    """Seconds and agreement of plain generation and of every way, all by turns; a row a way."""
    outputs: dict[Hashable, Tensor] = {}
    counts: dict[int, Count] = {}
    train_ids = config.network.text.joined("train").ids

    def theirs(drawn: bool, tokens: int, **own) -> Tensor:
        own |= DRAWN if drawn else {"do_sample": False}
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(seed)
            return model.generate(ids, max_new_tokens=tokens, **own)[:, ids.shape[1] :]

    def ours(drawn: bool, tokens: int) -> Tensor:
        return write(Session(llama, Method(len(llama.layers))), ids, tokens, draw(drawn))

    def draw(drawn: bool) -> torch.Generator | None:  # a new one each time: the same text again
        return torch.Generator(ids.device).manual_seed(seed) if drawn else None

    def drafted(number: int, way: Way) -> Callable[[int], Tensor]:
        if way.engine == "transformers":
            return partial(theirs, way.drawn, assistant_early_exit=way.exit)
        words = None
        if not way.exit:
            return partial(counted, number, Copier(llama, way.tokens), way.drawn)
        if way.words:
            words = frequent(train_ids, way.words, len(llama.head)).to(ids.device)
        drafter = Drafter(llama, way.exit, way.tokens, words, way.sure)
        return partial(counted, number, drafter, way.drawn)

    def counted(number: int, drafter: Speculation, drawn: bool, tokens: int) -> Tensor:
        found, counts[number] = drafter.write(ids, tokens, draw(drawn))
        return found

    calls: dict[Hashable, Callable[[int], Tensor]] = {}
    for drawn in sorted({way.drawn for way in config.ways}):
        calls["transformers", drawn] = partial(theirs, drawn)
        calls["ours", drawn] = partial(ours, drawn)
    for number, way in enumerate(config.ways):
        if way.engine == "ours" or len(ids) == 1:
            calls[number] = drafted(number, way)

    def kept(name: Hashable, tokens: int) -> None:
        outputs[name] = calls[name](tokens)

    with _threads(config.threads):
        for name in calls:
            kept(name, min(WARM, config.written))
        jobs = [partial(kept, name, config.written) for name in calls]
        spent = in_turns(jobs, config.rounds, ids.device, warm=False)
    seconds = dict(zip(calls, spent, strict=True))
    return [
        _row(config, ids, number, seconds, outputs, counts.get(number))
        for number in calls
        if isinstance(number, int)
    ]


def _row(
    config: Speculative,
    ids: Tensor,
    number: int,
    seconds: dict[Hashable, float],
    outputs: dict[Hashable, Tensor],
    count: Count | None,
) -> Row:
    """What a way gains over plain generation, and how far its drafts agreed."""
    drawn = config.ways[number].drawn
    calls = {name: (name, drawn) for name in ENGINES} | {"drafted": number}
    row = {"way": number}
    for name in ("transformers", "ours", "drafted"):
        row[f"{name}_tokens_a_second"] = len(ids) * config.written / seconds[calls[name]]
    # speed-up over the faster of the two that do not draft
    row["speedup"] = min(seconds[calls[name]] for name in ENGINES) / seconds[number]
    row["equal"] = row["acceptance"] = row["tokens_a_round"] = None
    if not drawn:
        plain = outputs["transformers", False]
        row["equal"] = (outputs[number] == plain).double().mean().item()
    row["repeated"] = repetition(outputs[number])
    if count is not None:
        row["tokens_a_round"] = (config.written - 1) / count.rounds
    if count is not None and count.drafted:
        row["acceptance"] = count.accepted / count.drafted
    return row


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads of torch inside, as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _mean(rows: list[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return sum(values) / len(values) if values else None
