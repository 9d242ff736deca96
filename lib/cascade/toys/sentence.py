"""The sentence of all toys as the tiny random base reads it."""

import functools

import torch
from torch import Tensor

from lib.base.head import head_statistics
from lib.base.pretrained import Base, load_base
from lib.cascade.difficulty import hidden_cosine
from lib.cascade.features import COSINES, TokenFeatures
from lib.toy import SENTENCE

BASE = "The base is a random tiny Llama of four layers: its text means nothing, its rules do"


@functools.cache
def base() -> Base:
    """The random base that needs no download."""
    return load_base("tiny")


@functools.cache
def ids() -> Tensor:
    """The sentence as tokens [1, T + 1]."""
    return torch.tensor([base().tokenizer.encode(SENTENCE)])


def tokens() -> list[str]:
    """The tokens that are read, as text: all but the last."""
    return [base().tokenizer.decode([token]) for token in ids()[0, :-1].tolist()]


@functools.cache
def hidden() -> tuple[Tensor, ...]:
    """States [1, T, width] of the base: the embedding, every layer, the last one normed."""
    with torch.inference_mode():
        found = base().model.model(ids()[:, :-1], output_hidden_states=True)
    return tuple(state.clone() for state in found.hidden_states)


@functools.cache
def features() -> TokenFeatures:
    """What is known of every token [T]: cosines, and what the head says."""
    states, labels = hidden(), ids()[0, 1:]
    final = states[-1][0]
    scalars = {name: hidden_cosine(states, name)[0] for name in COSINES}
    scalars |= head_statistics(final, base().model.lm_head.weight, labels)
    return TokenFeatures(final, scalars, ids()[0, :-1], labels, len(labels))


def marks(chosen: Tensor, mark: str = "█") -> list[str]:
    """A mark a token where ``chosen`` [T] is true."""
    return [mark if hit else "" for hit in chosen.tolist()]
