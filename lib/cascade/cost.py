"""Floating-point operations per token of a routed model, relative to its base.

Two a multiply-add, matrix products only: attention scores, norms and elementwise work are left out
on both sides. Counted are the keys and values that a stage or a second pass computes for tokens it
does not answer, and a further pass through the head for tokens deferred by a rule that needs the
logits (entropy, confidence, margin, the wide gate) before it can choose; for tokens that stay those
logits are the answer. Low-rank matrices are counted as merged, in a second pass too: it then has
weights of its own, which cost memory and no operation.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import LlamaForCausalLM

from lib.cascade.gate import SEEN
from lib.cascade.stage import StageModel

NEEDS_LOGITS = ("confidence", "entropy", "margin", "wide_gate")


def matrix_weights(module: nn.Module) -> int:
    """Number of weights in matrices of ``module``: multiply-adds per token."""
    return sum(p.numel() for p in module.parameters() if p.ndim == 2)


def relative_flops(
    base: LlamaForCausalLM, stage: nn.Module, rate: float, criterion: str, context: str = "full"
) -> float:
    """FLOPs per token of base + stage over the base alone.

    ``rate``: share of tokens that the stage answers. ``criterion``: the rule; ``everything`` and
    ``random`` need no logits, nor do cosines and a linear gate (whose 1 x width is counted); a wide
    gate needs them, and reads a few numbers more. ``context``: ``full`` (keys and values of every
    token) or ``packed`` (of routed ones alone).
    Raises ``ValueError`` for a rate outside 0..1.
    """
    waiting = _keys(stage.layers) if context == "full" else 0
    return _over_base(base, rate, criterion, matrix_weights(stage.layers), waiting)


def second_pass_flops(
    base: LlamaForCausalLM, layers: int, rate: float, criterion: str, feedback: int = 0
) -> float:
    """FLOPs per token of a base that runs its last ``layers`` layers twice over a share ``rate`` of
    all tokens, over the base alone.

    ``criterion``: the rule that chooses them, as above. ``feedback``: weights of the matrices that
    lead the first pass back, which chosen tokens alone pass. Tokens that are not chosen give keys
    and values to each layer of the second pass. Raises ``ValueError`` for a rate outside 0..1.
    """
    last = base.model.layers[-layers:]
    return _over_base(base, rate, criterion, matrix_weights(last) + feedback, _keys(last))


def _keys(layers: nn.ModuleList) -> int:
    """Multiply-adds of the keys and values of a token in all layers."""
    return sum(
        matrix_weights(part)
        for layer in layers
        for part in (layer.self_attn.k_proj, layer.self_attn.v_proj)
    )


def _over_base(
    base: LlamaForCausalLM, rate: float, criterion: str, routed: int, waiting: int
) -> float:
    """A token's multiply-adds over the base's, ``routed`` more where it is chosen, ``waiting`` more
    where not."""
    if not 0 <= rate <= 1:
        raise ValueError(f"rate {rate} is not between 0 and 1")
    head = base.lm_head.weight.numel()
    alone = matrix_weights(base.model.layers) + head
    again = head if criterion in NEEDS_LOGITS else 0
    further = {"gate": 0, "joint_gate": 0, "wide_gate": len(SEEN)}  # numbers beside the state
    gate = base.config.hidden_size + further[criterion] if criterion in further else 0
    return (alone + rate * (routed + again) + (1 - rate) * waiting + gate) / alone


def cascade_flops(
    base: LlamaForCausalLM,
    stages: Sequence[StageModel],
    reached: Sequence[float],
    rules: Sequence[str],
) -> tuple[float, float]:
    """FLOPs per token of the base alone and of a base with several stages behind one another.

    ``reached[k]``: share of all tokens that reach stage k + 1; ``rules[k]``: the criterion that
    handed them on. A stage's layers see only what reaches it.
    """
    head = base.lm_head.weight.numel()
    alone = matrix_weights(base.model.layers) + head
    total = float(alone)
    for stage, share, rule in zip(stages, reached, rules, strict=True):
        # the head of the model that answers is counted once a token, whichever model it is
        again = head if rule in NEEDS_LOGITS else 0
        total += share * (matrix_weights(stage.layers) + again)
    return 2.0 * alone, 2.0 * total
