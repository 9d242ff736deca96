"""One stage trained on all tokens, routed afterwards by every rule at every rate."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lib.base.pretrained import Base
from lib.cascade.all_tokens import RULES, Answers, Values, route_values
from lib.cascade.cost import relative_flops
from lib.cascade.evaluation import perplexity
from lib.cascade.gate import Gate, best_gate, best_wide_gate
from lib.runs.tensors import save_tensors

GATE_RATE = 0.25  # the share of validation tokens by which the gate's penalty is chosen
STAGE_FILE = "stage.safetensors"


def routes(
    base: Base,
    stage: nn.Module,
    text: Answers,
    parts: dict[str, Answers],
    rates: tuple[float, ...],
    folder: Path,
    rules: tuple[str, ...] = RULES,
    joint: Gate | None = None,
    behind: str = "",
) -> list[dict]:
    """One row a rule and rate: true rate and perplexities of each part, and FLOPs per token.

    ``text``: answers on training text, from which the gate is fitted and every threshold is set;
    the gate's penalty is chosen on valid. ``mixed_ppl``: routed tokens get the mean of the two
    probabilities. ``chance_ppl``: what random routing of equally many gives on average.
    ``threshold`` is one of ``route_values``, where higher is routed: negated for confidence, margin
    and cosine. Stage and gate are left in ``folder``.

    ``joint``: the gate that was trained with the stage, which is the rule ``joint_gate``. The rule
    ``wide_gate`` needs the log frequency among the scalars (``with_frequency``). ``behind``: the
    SHA-256 of what the stage stands behind, if that is not the base. Raises ``ValueError`` for a
    rule that is not known.
    """
    gain = {
        name: part.features.scalars["loss"] - part.stage
        for name, part in {"train": text, **parts}.items()
    }
    valid = parts["valid"]
    gate = best_gate(
        (text.features.final, gain["train"]), (valid.features.final, gain["valid"]), GATE_RATE
    )
    gates: dict[str, Values] = {"gate": lambda features: gate(features.final)}
    if joint is not None:
        gates["joint_gate"] = lambda features: joint(features.final)
    if "wide_gate" in rules:
        gates["wide_gate"] = best_wide_gate(
            (text.features, gain["train"]), (valid.features, gain["valid"]), GATE_RATE
        )
    lines = []
    for rule in rules:
        ordered = route_values(text.features, rule, gates, gain["train"]).sort().values
        for rate in rates:
            threshold = cut(ordered, rate)
            line = {"rule": rule, "wanted_rate": rate}
            for name, part in parts.items():
                values = route_values(part.features, rule, gates, gain[name])
                line |= _scores("val" if name == "valid" else name, part, values > threshold)
            line["flops"] = relative_flops(base.model, stage, line["test_rate"], rule)
            # what a choice may look at
            line["val_flops"] = relative_flops(base.model, stage, line["val_rate"], rule)
            line["threshold"] = threshold
            lines.append(line)
    kept = {"gate": gate} | ({} if joint is None else {"joint_gate": joint})
    _keep(folder, stage, kept, behind or base.sha256)
    return lines


def cut(ordered: Tensor, rate: float) -> float:
    """The value that a share ``rate`` of ``ordered`` (ascending) lies above; at 0 and 1 infinite,
    so that nothing or everything is routed on any text."""
    if rate in (0, 1):
        return float("-inf") if rate == 1 else float("inf")
    return ordered[max(0, round((1 - rate) * len(ordered)) - 1)].item()


def _scores(name: str, part: Answers, mask: Tensor) -> dict:
    base = part.features.scalars["loss"]
    both = torch.stack([-base, -part.stage]).logsumexp(dim=0).neg() + torch.log(torch.tensor(2.0))
    found, rate = part.perplexities(mask), mask.double().mean().item()
    chance = (1 - rate) * base.double() + rate * part.stage.double()
    return {
        f"{name}_rate": rate,
        f"{name}_chance_ppl": perplexity(chance),
        f"{name}_ppl": found["ppl"],
        f"{name}_content_ppl": found["content_ppl"],
        f"{name}_mixed_ppl": perplexity(torch.where(mask, both, base)),
    }


def _keep(folder: Path, stage: nn.Module, gates: dict[str, Gate], base_sha256: str) -> None:
    tensors = {f"stage.{name}": t for name, t in stage.state_dict().items()}
    for name, gate in gates.items():
        tensors |= {f"{name}.weight": gate.weight, f"{name}.bias": gate.bias[None]}
    save_tensors(folder / STAGE_FILE, tensors, {"base_sha256": base_sha256})
