"""Experiments 1 to 4: rows that their claims name, and what the controls hold equal."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lib.character.analysis.memory_checks import FilledMemory
from lib.character.experiments import e01_hrm_against_lct as exp01
from lib.character.experiments import e02_infini_hrm as exp02
from lib.character.experiments import e03_iterative_refinement as exp03
from lib.character.experiments import e04_layerwise_progressive as exp04
from lib.character.models.hrm import HRMConfig
from lib.character.objectives import Segments
from lib.checks import CheckFailed, causal

SYMBOLS = torch.randint(97, (4, 64), generator=torch.Generator().manual_seed(0))
HIDDEN = HRMConfig(97, memory="hidden", causal_memory=True)
WINDOWS = (20_000 - 1) // 64


def rows(experiment) -> list[str]:
    """All rows of an experiment, the count models included."""
    return [*getattr(experiment, "SHOWN", experiment.variants(97)), "unigram", "bigram"]


@pytest.mark.parametrize("experiment", [exp01, exp02, exp03, exp04])
def test_claims_name_rows_that_are_trained(experiment):
    table = pd.DataFrame(
        {"variant": name, "seed": seed, "test_ppl": 9.0, "best_epoch": 1}
        for name in rows(experiment)
        for seed in (0, 1)
    )
    curve = table.drop(columns="best_epoch").assign(
        epoch=1, train_loss_layer_1=2.0, train_loss_layer_4=1.0
    )
    for claim in experiment.CLAIMS:
        values = claim.measure(lambda name="": curve if name else table)
        assert len(values) == 2 and np.isfinite(values).all(), claim.id


def test_a_head_to_its_stop_stands_on_the_same_blocks(corpus):
    parameters = exp01.Exp01(seeds=1)
    tasks = {task.labels["variant"]: task.config for task in exp01.unlabelled(corpus, parameters)}
    assert list(tasks) == list(exp01.SHOWN[:4])
    for blocks in (1, 2):
        seeds, stopped = (
            tasks[name.format(blocks)] for name in ("LCT+OACD {}-layer", exp01.TO_ITS_STOP)
        )
        assert replace(stopped, head=seeds.head) == seeds
        assert replace(stopped.head, training=seeds.head.training) == seeds.head
        numbers = stopped.head.training
        assert (numbers.epochs, numbers.patience, numbers.learning_rate) == (150, 5, 5e-3)


@pytest.mark.parametrize(
    ("experiment", "row", "refined", "updates"),
    [
        (exp01, exp01.FEW, "LCT 2-layer, task loss", 78),
        (exp03, "Looped twice, 1 loss, batches of 8", "IRT", 39),
    ],
)
def test_small_batches_step_about_as_often_as_a_loss_for_each_segment(
    experiment, row, refined, updates
):
    variants = experiment.variants(97)
    assert replace(variants[row].objective, joint=False) == variants[refined].objective
    assert variants[row].model == variants[refined].model
    assert -(-WINDOWS // variants[row].training["batch_size"]) == updates
    refined_updates = -(-WINDOWS // 16) * variants[refined].objective.segments
    assert 0 <= refined_updates - updates <= 2


def test_without_look_ahead_a_reset_memory_is_an_emptied_one_bit_for_bit():
    torch.manual_seed(0)
    blind = HIDDEN.build()
    emptied = HRMConfig(97, memory="hidden", memory_off=True).build()
    emptied.load_state_dict(blind.state_dict())
    gradients = []
    for model in (blind, emptied):
        objective = Segments(2)
        objective.begin_epoch()
        for loss in objective.losses(model, SYMBOLS, SYMBOLS):
            loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    with torch.no_grad():
        assert torch.equal(*(Segments(2).predict(model, SYMBOLS) for model in (blind, emptied)))


@pytest.mark.parametrize("memory", ["hidden", "input"])
def test_a_filled_memory_is_read_and_shows_who_looks_ahead(memory):
    blind = HRMConfig(97, memory=memory, causal_memory=True)
    causal(blind, FilledMemory(2))
    with pytest.raises(CheckFailed, match="sees the future"):
        causal(replace(blind, causal_memory=False), FilledMemory(2))
    torch.manual_seed(0)
    model = blind.build()
    with torch.no_grad():
        empty, filled = (kind(2).predict(model, SYMBOLS) for kind in (Segments, FilledMemory))
    assert (empty - filled).abs().max() > 1e-4


def test_the_controls_state_how_many_parameters_of_hrm_are_trained():
    variants = exp03.variants(97)
    trained = {}
    for name in ("HRM", "IRT"):
        model, objective = variants[name].model.build(), variants[name].objective
        objective.begin_epoch()
        for loss in objective.losses(model, SYMBOLS, SYMBOLS):
            loss.backward()
        trained[name] = sum(p.numel() for p in model.parameters() if p.grad is not None)
    assert trained == {"HRM": 49_344, "IRT": 82_176}
    control = next(c.control for c in exp03.CLAIMS if c.id == "exp03-hierarchy-adds-little")
    assert "49,344" in control and "82,176" in control
