"""A random tiny Llama with a byte-level tokenizer: the base of tests and tiny notebook runs.

It has the interface of the real base (transformers ``LlamaForCausalLM``, tied embeddings, end of
sequence = id 2) and needs no download. Its text means nothing: only the plumbing is tested with it.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Merges in the order of their application; the left and right parts must exist before.
MERGES = tuple(
    tuple(pair.split())
    for pair in (
        "t h",
        "th e",
        "Ġ the",
        "i n",
        "e r",
        "Ġ a",
        "o n",
        "r e",
        "Ġ s",
        "a t",
        "o r",
        "e n",
        "Ġ w",
        "i s",
        "Ġ t",
        "i t",
        "a n",
        "Ġ c",
        "Ġ p",
        "in g",
        "# #",
    )  # fmt: skip
)


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges: 3 special + 256 bytes + 21 merges = 280 tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*SPECIAL, *alphabet, *(left + right for left, right in MERGES)]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[2],
        clean_up_tokenization_spaces=False,
    )


def tiny_llama() -> LlamaForCausalLM:
    """A random Llama of four layers, 32 wide, that leaves the global random state untouched.

    Weights are N(0, 0.2²) and not 0.02: with the small ones every hidden state would be the
    embedding, and all cosines 1, so that no token were ever hard.
    """
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + 256 + len(MERGES),
        hidden_size=32,
        num_hidden_layers=4,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config)
