"""Tables of notebooks 20 and 21."""

from __future__ import annotations

import pandas as pd

from lib.depth import fronts
from lib.depth.evaluation import AIMS
from lib.results.statistics import interval
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
    """Test loss (mean of both texts) at the costs of the claims, and what validation chose."""
    rows = []
    curves = {
        "fixed depth": fronts.fixed,
        "adaptive": fronts.adaptive,
        "exits, head rules": fronts.grouped("exits", "head"),
        "exits, state rules": fronts.grouped("exits", "state"),
        "exits at random": fronts.grouped("exits", "random"),
    }
    for name, curve in curves.items():
        row = {"way": name}
        for aim in AIMS:
            try:
                frame = curve(results)
                row[f"{aim:g}"] = str(interval(fronts.at(frame, aim)))
                row[f"chosen for {aim:g}"] = _chosen(results, frame, aim)
            except Absent:
                row[f"{aim:g}"] = row[f"chosen for {aim:g}"] = ""
        rows.append(row)
    return captioned(pd.DataFrame(rows).set_index("way"), results())


def _chosen(results: Results, frame: pd.DataFrame, aim: float) -> str:
    """The network of the point nearest to a cost, and the rules that its seeds chose there."""
    valid = frame[frame["split"] == "valid"].assign(target=frame.get("target"))
    points = valid.groupby(["variant", "target"], dropna=False)
    (variant, _), own = min(points, key=lambda point: abs(point[1]["flops"].mean() - aim))
    rules = [rule for rule in own["rule"].unique() if rule not in ("fixed", "gated")]
    name = results.labels[variant]
    return f"{name}, {' or '.join(rules).replace('_', ' ')}" if rules else name


def decoding(results: Results) -> pd.DataFrame:
    """Speed, agreement and equality of output by variant, batch and prompt, mean over texts."""
    frame = results.named("decoding")
    rows = []
    for (variant, batch, prompt), own in frame.groupby(["variant", "batch", "prompt"], sort=False):
        by_seed = own.groupby("seed")[["speedup", "acceptance"]].mean()
        row = {"drafting": variant, "times as fast": str(interval(by_seed["speedup"]))}
        row |= {"n": len(by_seed), "batch": batch, "prompt": prompt}
        known = by_seed["acceptance"].dropna()
        row["accepted"] = str(interval(known)) if len(known) else ""
        row["equal tokens"] = own["equal"].min()
        rows.append(row)
    return captioned(pd.DataFrame(rows).set_index("drafting"), results())
