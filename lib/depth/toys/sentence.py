"""The sentence of all toys as the tiny random base reads it, layer by layer."""

import functools

import torch
from torch import Tensor

from lib.base.pretrained import Base, load_base
from lib.depth.llama import Llama, of_base
from lib.toy import SENTENCE, SPACE

BASE = "The base is a random tiny Llama of four layers: its text means nothing, its rules do"


@functools.cache
def base() -> Base:
    """The random base that needs no download."""
    return load_base("tiny")


@functools.cache
def llama() -> Llama:
    """Its layers as plain functions."""
    return of_base(base().model)


@functools.cache
def ids() -> Tensor:
    """The sentence as tokens [1, T]."""
    return torch.tensor([base().tokenizer.encode(SENTENCE)])


def words(tokens: Tensor) -> list[str]:
    """Tokens [T] as the tokenizer names them, where every byte has a letter; blanks visible."""
    names = base().tokenizer.convert_ids_to_tokens(tokens.tolist())
    return [name.replace("Ġ", SPACE) for name in names]
