"""Time a token at the points that are compared, beside the untouched base, on one core.

Network and base take turns in one process, so that both see the same machine; the middle of the
rounds counts. Two uses: a window scored at once (every token read by the head, as the losses are
measured), and text written one token after the other with a cache (its prompt is not timed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lib.depth.adapters import frozen
from lib.depth.generation import Policy, Session, usable, write
from lib.depth.methods import Method
from lib.depth.network import DepthRun, network_of
from lib.depth.run import run_depth
from lib.runs.clock import in_turns
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place


@dataclass(frozen=True)
class DepthSpeed:
    """The trained network; ``windows`` scored at once; ``written`` tokens after half a window."""

    network: DepthRun
    windows: int = 4
    written: int = 32
    rounds: int = 3
    LIBRARIES: ClassVar[tuple[str, ...]] = ("transformers",)


@run_function("depth-speed", version=3, clock=True)
def run_depth_speed(config: DepthSpeed, seed: int, place: Place) -> Outcome:
    """A row of the table ``speed`` for every point of valid that was really run."""
    points = place.need(run_depth, config.network, seed).record()["tables"]["points"]
    llama, gate, _ = network_of(config.network, seed, place)
    method, text = config.network.method, config.network.text
    base = frozen(config.network.base.load().model.to(place.device), Method(method.layers))
    ids = text.parts[text.texts[0]]["test"].inputs[: config.windows].to(place.device)
    rows = usable(points)
    uses: list[Callable[[], Session]] = [lambda: Session(base, Method(method.layers))]
    for row in rows:
        policy = Policy.at(row, gate)
        uses.append(lambda policy=policy: Session(llama, method, policy))
    jobs = [lambda u=use: score(u(), ids) for use in uses]
    scored = in_turns(jobs, config.rounds, place.device)
    half = ids[:1, : ids.shape[1] // 2]
    jobs = [writer(use(), half, config.written) for use in uses]
    written = in_turns(jobs, config.rounds, place.device)
    found = []
    for i, row in enumerate(rows, start=1):
        own = {name: row.get(name) for name in ("rule", "target", "exits", "flops", "loss")}
        own["prefill_ms"] = 1_000 * scored[i] / ids.numel()
        own["generate_ms"] = 1_000 * written[i] / config.written
        own["prefill_relative"] = scored[i] / scored[0]
        own["generate_relative"] = written[i] / written[0]
        found.append(own)
    row = {"corpus": text.name, "corpus_sha256": text.sha256}
    return Outcome(row, {"speed": found})


@torch.inference_mode()
def score(session: Session, ids: Tensor) -> Tensor:
    """Logits of all tokens."""
    return session.logits(ids)


@torch.inference_mode()
def writer(session: Session, prompt: Tensor, tokens: int) -> Callable[[], Tensor]:
    """A call that writes so many tokens after a prompt, which has been run before."""
    first = session.feed(prompt).argmax(-1, keepdim=True)

    def again() -> Tensor:
        session.cache.cut(prompt.shape[1])
        return write(session, first, tokens)

    return again
