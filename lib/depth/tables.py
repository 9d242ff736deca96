"""Tables of notebooks 20 and 21."""

from __future__ import annotations

import pandas as pd

from lib.depth import fronts
from lib.depth.evaluation import AIMS
from lib.results.statistics import FACTOR, SHARE, bounded_interval, interval
from lib.results.store import Absent, Results
from lib.results.tables import captioned


def networks(results: Results) -> pd.DataFrame:
    """One row a network at the point it was made for: cost, test loss of each text."""
    frame = results()
    texts = [column for column in frame if column.startswith("test_loss_")]
    rows = []
    for variant in frame["variant"].unique():
        own = frame[frame["variant"] == variant]
        row = {"network": own["label"].iloc[0], "n": len(own)}
        row |= {f"loss, {t[10:].replace('_', '-')}": str(interval(own[t])) for t in texts}
        row |= {"cost": round(own["flops"].mean(), 3), "layers": own["layers"].iloc[0]}
        row |= {"trained": f"{own['params'].iloc[0]:,.0f}"}
        rows.append(row)
    return captioned(pd.DataFrame(rows).set_index("network"), frame)


def at_costs(results: Results) -> pd.DataFrame:
    """Test loss (nats a token, mean of both texts) at the costs of the claims, and between which
    points of the curve each lies."""
    rows = []
    curves = {
        "fixed depth": fronts.fixed,
        "adaptive": fronts.adaptive,
        "exits, head rules": fronts.grouped("exits", "head"),
        "exits, state rules": fronts.grouped("exits", "state"),
        "exits at random, token by token": fronts.grouped("exits", "random"),
        "exits, one depth a text": fronts.whole_texts("exits"),
    }
    for name, curve in curves.items():
        row = {"way": name}
        for aim in AIMS:
            try:
                frame = curve(results)
                row[f"loss at {aim:g}"] = str(interval(fronts.at(frame, aim)))
                row[f"of, {aim:g}"] = _chosen(results, frame, aim)
            except Absent:
                row[f"loss at {aim:g}"] = row[f"of, {aim:g}"] = ""
        rows.append(row)
    return captioned(pd.DataFrame(rows).set_index("way"), results())


NEAR = 0.02  # a point so near to a cost stands for it alone


def _chosen(results: Results, frame: pd.DataFrame, aim: float) -> str:
    """The points between which a cost lies, or the one that is near it: network, and the rules that
    its seeds chose there or the layer after which all tokens are read out."""
    valid = frame[frame["split"] == "valid"]
    valid = valid.assign(target=valid.get("target"), layer=valid.get("depth"))
    valid["layer"] = valid["layer"].where(valid["rule"] == "static")
    points = []
    for (variant, _, layer), own in valid.groupby(["variant", "target", "layer"], dropna=False):
        rules = [rule for rule in own["rule"].unique() if rule not in ("fixed", "gated", "static")]
        told = f"layer {layer:.0f}" if pd.notna(layer) else " or ".join(rules).replace("_", " ")
        points.append((own["flops"].mean(), results.labels[variant], told))
    points.sort()
    cost, *nearest = min(points, key=lambda point: abs(point[0] - aim))
    if abs(cost - aim) <= NEAR or len(points) == 1:
        return ", ".join(filter(None, nearest))
    after = next((i for i, point in enumerate(points) if point[0] > aim), len(points) - 1)
    (_, one, below), (_, other, above) = points[max(after, 1) - 1 : max(after, 1) + 1]
    if one == other:
        return f"{one}, {below} and {above}"
    return " and ".join(", ".join(filter(None, p)) for p in ((one, below), (other, above)))


def decoding(results: Results) -> pd.DataFrame:
    """Speed, agreement, equality and repetition by variant, batch and prompt, mean over texts."""
    frame = results.named("decoding")
    shares, rows = {"acceptance": "accepted", "repeated": "repeated"}, []
    for (variant, batch, prompt), own in frame.groupby(["variant", "batch", "prompt"], sort=False):
        by_seed = own.groupby("seed")[["speedup", *shares]].mean()
        row = {"drafting": variant}
        row["times as fast"] = str(bounded_interval(by_seed["speedup"], FACTOR))
        row |= {"n": len(by_seed), "prompts": f"{batch} of {prompt} tokens"}
        for column, told in shares.items():
            known = by_seed[column].dropna()
            row[told] = str(bounded_interval(known, SHARE)) if len(known) else ""
        row["equal tokens"] = own["equal"].min() if own["equal"].notna().any() else ""
        rows.append(row)
    return captioned(pd.DataFrame(rows).set_index("drafting"), results())
