"""What must hold of base and stages at any size; notebooks run it on their own dataset."""

from __future__ import annotations

import torch

from lib.cascade.dataset import TokenDataset
from lib.cascade.modeling import CascadeForCausalLM
from lib.cascade.stage import StageModel, new_stage, parameter_count
from lib.checks import CheckFailed


@torch.no_grad()
def off_is_base(dataset: TokenDataset) -> None:
    """Raises CheckFailed unless a cascade that defers nothing gives the base's very logits."""
    data = dataset.open()
    base, inputs = data.base, data.windows["test"].inputs[:2]
    stage = new_stage(base.model.config, 1, head="shared")
    nothing = [{"criterion": "last_two_layers", "threshold": float("-inf")}]
    expected = base.model(inputs).logits
    for stages, rules in (([], []), ([stage], nothing)):
        model = CascadeForCausalLM.assemble(base, stages, rules)
        if not torch.equal(model(inputs).logits, expected):
            raise CheckFailed(f"with {len(stages)} stages and nothing deferred, logits differ")
    print("no stages, and a stage that nothing reaches: the base's logits bit for bit")


@torch.no_grad()
def zero_start_is_base(dataset: TokenDataset) -> None:
    """Raises CheckFailed unless an untrained zero-initialised stage repeats its input."""
    data = dataset.open()
    states = data.base.model.model(data.windows["test"].inputs[:1]).last_hidden_state
    stage = new_stage(data.base.model.config, 2, head="shared", start="identity")
    if not torch.equal(stage(states), states):
        raise CheckFailed("an untrained zero-initialised stage changes its input")
    print("an untrained zero-initialised stage repeats the base's states bit for bit")


def sizes(dataset: TokenDataset) -> None:
    """Raises CheckFailed if, on the reports' base, a stage has not the reports' parameters."""
    base = dataset.open().base
    config = base.model.config
    if config.hidden_size != 576 or config.vocab_size != 49_152:
        print(f"the base ({base.name}) is not the reports': their sizes are not checked")
        return
    with torch.device("meta"):
        found = {n: parameter_count(StageModel(config, n, final_norm=n > 0)) for n in (0, 2, 8)}
    expected = {0: 28_311_552, 2: 35_392_320, 8: 56_632_896}
    if base.parameters != 134_515_008 or found != expected:
        raise CheckFailed(f"base {base.parameters}, stages {found}; expected {expected}")
    print(
        f"base {base.parameters:,} parameters; stages of 0, 2, 8 layers: "
        + ", ".join(f"{size:,}" for size in found.values())
    )
