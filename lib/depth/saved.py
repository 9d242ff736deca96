"""Networks of notebook 20 as folders that ``from_pretrained`` of transformers loads.

``lib.depth.modeling`` must be imported before, so that transformers knows the architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lib.depth.generation import Policy, usable
from lib.depth.modeling import as_model
from lib.depth.network import KEPT, DepthRun, load_network, run_learning
from lib.depth.parameters import DepthParameters
from lib.depth.run import run_depth
from lib.depth.texts import DepthText
from lib.experiment import Experiment
from lib.runs import devices, files, places
from lib.runs.task import RECORD, Place

COST = 0.7  # of the base's, where a network can be run at several
PROMPT = "The moon is"
WRITTEN = 16  # new tokens


def save(
    experiment: Experiment,
    parameters: DepthParameters,
    texts: Sequence[DepthText],
    variants: Sequence[str] = ("adapted", "middle_removed_70", "exits", "gated"),
    cost: float = COST,
    folder: Path | None = None,
) -> dict[str, Path]:
    """Save the first seed of each variant, with the policy it needs at a cost; where each lies.

    A variant whose network is not kept on this machine is left out, which is said aloud. Raises
    ParameterError for a variant that there is not.
    """
    folder = folder or places.kept_folder() / "models" / experiment.slug
    device = devices.choose(parameters.device)
    found, missing = {}, []
    for task in experiment.tasks(parameters, texts, variants):
        name = task.labels["variant"]
        if task.function is not run_depth or task.seed:
            continue
        there, network = (
            Place(places.runs_folder() / replace(task, function=function).key(device.type), device)
            for function in (run_depth, run_learning)
        )
        if not ((there.folder / RECORD).is_file() and (network.folder / KEPT).is_file()):
            missing.append(name)
            continue
        point = point_at(there.record()["tables"]["points"], cost)
        found[name] = folder / name
        _save(task.config, network, point, found[name])
    if missing:
        print(f"no network is kept on this machine of: {', '.join(missing)}")
    return found


def _save(config: DepthRun, network: Place, point: Mapping[str, Any], folder: Path) -> None:
    base = config.base.load()
    llama, gate = load_network(config, network)
    policy = Policy.at(point, gate)
    model = as_model(base.model, llama, config.method, policy)
    files.budgeted(folder, sum(4 * p.numel() for p in model.parameters()), "the network")
    with files.locked(folder.parent / f"{folder.name}.lock"):
        files.clear_partial(folder.parent, folder.name)
        with files.whole_folder(folder) as partial:
            model.save_pretrained(partial)
            base.tokenizer.save_pretrained(partial)


def point_at(points: Sequence[Mapping[str, Any]], cost: float) -> Mapping[str, Any]:
    """Of the points of valid that can be run: those chosen for the nearest cost, the best of
    these. Raises ValueError if there are none."""
    own = usable(points)
    if not own:
        raise ValueError("the network has no point of valid that can be run as it was measured")
    asked = [row["flops"] if row.get("target") is None else row["target"] for row in own]
    nearest = min(asked, key=lambda value: abs(value - cost))
    near = (row for row, value in zip(own, asked, strict=True) if value == nearest)
    return min(near, key=itemgetter("loss"))


def written(
    folders: Mapping[str, Path], prompt: str = PROMPT, tokens: int = WRITTEN
) -> pd.DataFrame:
    """What each saved network writes after a prompt, greedily: loaded anew out of its folder."""
    rows = {}
    for name, folder in folders.items():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        new = model.generate(ids, max_new_tokens=tokens)[0, ids.shape[1] :]
        policy = model.policy
        rows[name] = {
            "layers": len(model.model.layers),
            "exits": ", ".join(map(str, policy.exits)),
            "rule": policy.rule or ("gate" if model.method.gated is not None else ""),
            "writes": f"{prompt}{tokenizer.decode(new)}",
        }
    return pd.DataFrame(rows).T.rename_axis("network")
