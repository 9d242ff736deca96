import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer

from lib.cascade.modeling import CascadeForCausalLM
from lib.provenance import ROOT

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


def test_a_stage_trained_by_two_processes_is_the_one_of_a_single_process(tmp_path):
    one = launched([], tmp_path / "one")
    two = launched(
        ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"], tmp_path / "two"
    )
    assert (one.pop("processes"), two.pop("processes")) == (1, 2)
    assert one.pop("corpus") == two.pop("corpus")
    for name in one:
        assert one[name] == pytest.approx(two[name], rel=1e-4), name
    saved = tmp_path / "one" / "out"
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
