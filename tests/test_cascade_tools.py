import json
import os
import subprocess
import sys

import pytest
import torch
from test_cascade_sharding import in_two_processes
from transformers import AutoTokenizer

from lib.cascade.modeling import CascadeForCausalLM
from lib.runs.places import ROOT

ARGUMENTS = [
    "--base",
    "tiny",
    "--corpus",
    "embedded",
    "--windows",
    "20",
    "--test-windows",
    "4",
    "--steps",
    "6",
    "--batch",
    "2",
    "--device",
    "cpu",
    "--head",
    "scratch",
    "--initial",
    "random",
]


def launched(launcher: list[str], tmp_path) -> dict:
    home = {**os.environ, "DEPTH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [
            sys.executable,
            *launcher,
            str(ROOT / "tools" / "train_stage.py"),
            *ARGUMENTS,
            "--out",
            str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        timeout=280,
        env=home,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Folder and printed numbers of the tool run in one process."""
    folder = tmp_path_factory.mktemp("one")
    return folder, launched([], folder)


def same(one: dict, two: dict) -> None:
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["corpus"] == two["corpus"] and one.keys() == two.keys()
    for name in one.keys() - {"processes", "corpus"}:
        assert one[name] == pytest.approx(two[name], rel=1e-4), name


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "--standalone"],
    # without --multi_gpu accelerate starts one process on a machine without GPU
    "accelerate": [
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--main_process_port", "0"),
    ],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_stage_trained_by_two_processes_is_the_one_of_a_single_process(alone, tmp_path, launcher):
    same(alone[1], launched(["-m", *LAUNCHERS[launcher]], tmp_path))


SHARDED = """
import runpy
import accelerate
import test_cascade_sharding as here
accelerate.Accelerator = here.ShardingAccelerator
tool = sys.argv[2]
sys.argv[:3] = [tool]
runpy.run_path(tool, run_name="__main__")
"""


def test_a_stage_trained_sharded_is_the_one_of_a_single_process(alone, tmp_path):
    tool, out = ROOT / "tools" / "train_stage.py", tmp_path / "out"
    done = in_two_processes(SHARDED, tmp_path, tool, *ARGUMENTS, "--out", out)
    assert done.returncode == 0, done.stderr[-2000:]
    same(alone[1], json.loads(done.stdout.strip().splitlines()[-1]))
    one, two = (
        CascadeForCausalLM.from_pretrained(folder).state_dict()
        for folder in (alone[0] / "out", out)
    )
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=2e-5), name


def test_the_saved_cascade_answers(alone):
    saved = alone[0] / "out"
    model = CascadeForCausalLM.from_pretrained(saved).eval()
    tokenizer = AutoTokenizer.from_pretrained(saved)
    prompt = tokenizer("### Instruction:\nExplain bread.", return_tensors="pt")
    out = model.generate(
        prompt.input_ids, attention_mask=prompt.attention_mask, max_new_tokens=8, do_sample=False
    )
    assert out.shape[1] > prompt.input_ids.shape[1]
    assert (model(prompt.input_ids).answered_by == 1).any()
    assert not any("checkpoint" in path.name for path in saved.iterdir())
    assert torch.isfinite(model(prompt.input_ids).logits).all()


def test_the_speed_script_runs():
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "tools" / "bench_cascade.py"),
            "--base",
            "tiny",
            "--rounds",
            "1",
            "--batch",
            "1",
            "--layers",
            "1",
        ],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for part in ("Base forward", "Stage step", "Routing", "Generation", "peak memory"):
        assert part in done.stdout
