"""Training a stage whose weights are split over two processes (FSDP2).

Accelerate switches FSDP on only for accelerator devices and ignores its plugin on a machine that
has none. ``ShardingAccelerator`` removes just this gate: everything behind it, ``prepare`` (torch's
``fully_shard``, the optimiser put over the sharded parameters) and clipping, is accelerate's own
FSDP path, over gloo on CPUs.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from test_cascade_training import SETTINGS, trained
from torch.distributed.fsdp import FSDPModule

from lib.cascade.sharding import gathered, is_sharded, scattered, whole_stage
from lib.cascade.stage import new_stage
from lib.base.pretrained import load_base
from lib.runs.places import ROOT

SHARDED = replace(SETTINGS, clip=0.1)  # below the norms met, so that clipping does something
KILLED_AT = 3


class ShardingAccelerator(Accelerator):
    def __init__(self, cpu=True, version=2, **plugin):
        super().__init__(cpu=True)
        layers = {
            "auto_wrap_policy": "transformer_based_wrap",
            "transformer_cls_names_to_wrap": ["LlamaDecoderLayer"],
            "cpu_ram_efficient_loading": False,  # said, as accelerate keeps the last answer
        }
        self.state.distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=version, **{**layers, **plugin}
        )


def in_two_processes(code, *arguments):
    """Run ``code`` (a child script that may import from the tests) under torchrun."""
    script = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n{code}"
    path = arguments[0] / "child.py"
    path.write_text(script)
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(path)]
    return subprocess.run(
        [sys.executable, "-m", *launcher, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DEPTH_CACHE": str(arguments[0] / "cache")},
    )


def probe(stage, step):
    """What ``report`` can say of a stage only if it gets whole, plain weights."""
    assert not is_sharded(stage)
    inputs = torch.linspace(-1, 1, 4 * 32).view(1, 4, 32)
    return {"output": stage(inputs).sum().item()}


def killed(folder):
    """Train sharded and end without any clean-up as soon as a checkpoint is written."""
    from lib.cascade import training

    real = training._Loop.save

    def save(self, path, curve):
        real(self, path, curve)
        if self.step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    training._Loop.save = save
    path = folder / "killed.safetensors"
    trained(path, SHARDED, accelerator=ShardingAccelerator(), report=probe)


def trained_on(folder):
    """Go on from the killed run's checkpoint, train without interruption, and try what is refused.

    ``meta`` is accelerate's default way of loading, over the meta device.
    """
    found = {}
    for name, plugin in (
        ("killed", {}),
        ("whole", {}),
        ("meta", {"cpu_ram_efficient_loading": True}),
    ):
        path = folder / f"{name}.safetensors"
        assert path.exists() == (name == "killed")
        accelerator = ShardingAccelerator(**plugin)
        stage, found[name] = trained(path, SHARDED, accelerator=accelerator, report=probe)
        assert is_sharded(stage)
        assert isinstance(stage.layers[0], FSDPModule)
        whole = whole_stage(stage)
        if accelerator.is_main_process:
            weights = {key: p.detach() for key, p in whole.named_parameters()}
            save_file(weights, folder / f"{name}-stage.safetensors")
    for name, plugin in REFUSED.items():
        with pytest.raises(ValueError) as error:
            trained(None, SHARDED, accelerator=ShardingAccelerator(**plugin))
        found[name] = str(error.value)
    if accelerator.is_main_process:
        (folder / "found.json").write_text(json.dumps(found))


REFUSED = {
    "FSDP version 1": {"version": 1},
    "an inner FSDP unit": {"transformer_cls_names_to_wrap": ["Stage"]},
    "without activation checkpointing": {"activation_checkpointing": True},
}
CHILD = """
from pathlib import Path
import test_cascade_sharding as here
here.{}(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Folder of two launches: one killed after a checkpoint, one that goes on and trains anew."""
    folder = tmp_path_factory.mktemp("sharded")
    dead = in_two_processes(CHILD.format("killed"), folder)
    assert dead.returncode != 0 and "SIGKILL" in dead.stderr, dead.stderr[-3000:]
    assert (folder / "killed.safetensors").exists()
    (folder / "after-the-kill.safetensors").write_bytes(
        (folder / "killed.safetensors").read_bytes()
    )
    done = in_two_processes(CHILD.format("trained_on"), folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("name", ["whole", "meta"])
def test_a_sharded_stage_trains_what_one_process_trains(sharded, tmp_path, name):
    folder, found = sharded
    stage, curve = trained(tmp_path / "one.safetensors", SHARDED, report=probe)
    assert [row["step"] for row in found[name]] == [row["step"] for row in curve]
    for ours, expected in zip(found[name], curve, strict=True):
        assert ours == pytest.approx(expected, rel=1e-4, abs=1e-4)
    two = load_file(folder / f"{name}-stage.safetensors")
    assert set(two) == {key for key, _ in stage.named_parameters()}
    for key, parameter in stage.named_parameters():
        assert torch.allclose(two[key], parameter, atol=2e-5), key


def test_the_checkpoint_of_a_sharded_stage_is_that_of_one_process(sharded, tmp_path):
    folder, _ = sharded
    trained(tmp_path / "one.safetensors", SHARDED, report=probe)
    one, two = (
        load_file(f / n) for f, n in ((tmp_path, "one.safetensors"), (folder, "whole.safetensors"))
    )
    assert one.keys() == two.keys()
    for key in one:  # the moments say that gradients were averaged and clipped alike
        scale = one[key].abs().max()
        assert torch.allclose(one[key] / scale, two[key] / scale, atol=2e-4), key


def test_killed_and_resumed_sharded_is_the_uninterrupted_run(sharded):
    folder, found = sharded
    assert found["killed"] == found["whole"]
    resumed, whole = (load_file(folder / f"{n}-stage.safetensors") for n in ("killed", "whole"))
    for key in whole:
        assert torch.equal(resumed[key], whole[key]), key


def test_one_process_goes_on_from_a_sharded_checkpoint(sharded, tmp_path):
    folder, found = sharded
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes((folder / "after-the-kill.safetensors").read_bytes())
    _, curve = trained(path, SHARDED, report=probe)
    assert curve[0] == found["whole"][0]  # taken over, not computed again
    for ours, expected in zip(curve, found["whole"], strict=True):
        assert ours == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_other_shardings_are_refused_in_words(sharded):
    for words in REFUSED:
        assert words in sharded[1][words] and "allowed: " in sharded[1][words]


def test_a_stage_that_is_not_sharded_is_left_alone():
    stage = new_stage(load_base("tiny").model.config, 1, seed=1)
    assert whole_stage(stage) is stage
    weight = stage.head.weight
    assert gathered(weight).data_ptr() == weight.data_ptr()
    assert scattered(weight.detach(), weight).data_ptr() == weight.data_ptr()
