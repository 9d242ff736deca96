"""Experiments 0 to 11: rows that their claims name, and what the controls hold equal."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from lib import registry
from lib.character import tables
from lib.character.analysis.memory_checks import FilledMemory, memories_look_ahead
from lib.character.checks import all_causal
from lib.character.experiments import e01_hrm_against_lct as e01
from lib.character.experiments import e02_infini_hrm as e02
from lib.character.experiments import e03_iterative_refinement as e03
from lib.character.experiments.e11_lpt_routing import E11, core
from lib.character.growth_run import Stage
from lib.character.models.hrm import HRMConfig
from lib.character.models.lct import LCTConfig
from lib.character.objectives import Dispersion, Segments
from lib.character.run import WindowWork
from lib.character.two_phase_run import TwoPhaseRun, run_two_phases
from lib.character.variants import Path
from lib.checks import CheckFailed, causal
from lib.results import store
from lib.results.claims import decide
from lib.runs.task import Place
from lib.training import loop
from lib.training.loop import Training

SLUGS = [slug for slug in registry.module_names() if slug < "12"]
SYMBOLS = torch.randint(97, (4, 64), generator=torch.Generator().manual_seed(0))
HIDDEN = HRMConfig(memory="hidden", causal_memory=True)
WINDOWS = (20_000 - 1) // 64


@pytest.mark.parametrize("slug", SLUGS)
def test_every_claim_is_decided_by_the_committed_results(slug):
    experiment, results = registry.experiment(slug), store.committed(slug)
    # not decided yet are rows that wait for their runs, and those of the guard of Experiment 9
    waiting = set(experiment.variants) - set(results()["variant"])
    reasons = (*(f"variant {name!r} has no" for name in waiting), "of the symbols exit")
    for claim in experiment.claims:
        rows = decide(claim, results, least=2)
        undecided = [row for row in rows if any(part in row["reason"] for part in reasons)]
        assert undecided or any(row["n"] for row in rows), claim.id
        used = {run for row in rows for run in row["run_ids"].split()}
        assert used <= set(results()["run_id"]), claim.id


@pytest.mark.parametrize("slug", SLUGS)
def test_explanations_name_a_reported_claim_and_only_reported_ones_a_reported_value(slug):
    claims = {claim.id: claim for claim in registry.experiment(slug).claims}
    for claim in claims.values():
        if claim.kind == "explanation":
            assert claims[claim.parent].kind == "reported", claim.id
        if claim.reported is not None:
            assert claim.kind == "reported", claim.id


@pytest.mark.parametrize("slug", SLUGS)
def test_labels_of_rows_are_those_of_the_report(slug):
    experiment = registry.experiment(slug)
    rows = store.reported(experiment.report)
    labels = set(experiment.labels().values())
    best = rows[rows["metric"] == "best_val_ppl"]["row"] if experiment.report else []
    assert set(best) <= labels


def test_a_reports_figure_stands_beside_its_own_text_alone():
    shown = tables.against_report(core(store.committed(E11.slug)), E11)
    column = "report's valid PPL"
    filled = [bool((table[column] != "").any()) for table in shown]
    assert filled == [table.attrs["caption"].startswith("repeated") for table in shown]
    assert sum(filled) == 1


def test_a_reader_adds_a_path_of_stages():
    experiment = registry.experiment("05_layer_freezing")
    variants = dict(experiment.variants)
    mine = replace(experiment, variants={**variants})
    mine.variants["mine"] = Path((Stage(3), Stage(4, start="best")))
    parameters = mine.parameters.at("tiny").changed(corpus="repeated")
    keys = {
        task.labels["variant"]: task.key() for task in mine.tasks(parameters, parameters.texts())
    }
    assert keys["mine"] == keys["full_best"] and mine.label("mine") == "mine (yours)"


def test_heads_until_early_stopping_stand_on_the_same_blocks(corpus):
    parameters = e01.Exp01(seeds=1)
    for blocks in (1, 2):
        given, stopped = (
            e01.VARIANTS[name].config(parameters, corpus)
            for name in (f"oacd_{blocks}", f"oacd_{blocks}_stopped")
        )
        assert replace(stopped, head=given.head) == given
        assert replace(stopped.head, training=given.head.training) == given.head
        numbers = stopped.head.training
        assert (numbers.epochs, numbers.patience, numbers.learning_rate) == (150, 5, 5e-3)
        assert (given.head.training.epochs, given.head.training.patience) == (30, 30)


@pytest.fixture
def weights(monkeypatch) -> list[dict]:
    """All weights before and after each phase that is trained."""
    seen = []

    def noted(work, *given, **named):
        states = [work.model.state_dict()]
        seen.append({name: value.clone() for name, value in states[0].items()})
        fit = loop.train(work, *given, **named)
        seen.append({name: value.clone() for name, value in states[0].items()})
        return fit

    monkeypatch.setattr("lib.character.two_phase_run.train", noted)
    return seen


def moved(before: dict, after: dict) -> set[str]:
    """Names of the weights that differ."""
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture
def shaped(corpus):
    """An LCT+OACD run of one block, small."""
    head = e01.VARIANTS["oacd_1"].config(e01.Exp01.at("tiny"), corpus).head
    return TwoPhaseRun(
        replace(head, model=LCTConfig(1, 16, 2)),
        Dispersion(4),
        Training(epochs=2, learning_rate=0.01),
    )


def test_the_task_loss_reaches_the_head_alone_and_shaping_the_blocks_alone(
    shaped, tmp_path, weights
):
    row = run_two_phases(shaped, 0, Place(tmp_path)).row
    first, second = moved(*weights[:2]), moved(*weights[2:])
    assert first and all(name.startswith("blocks.") for name in first)
    assert second == {"head.weight"} and row["shaping_updates"] == 32


def test_without_shaping_the_blocks_stay_as_they_were_drawn(shaped, tmp_path, weights):
    row = run_two_phases(replace(shaped, shaping=None), 0, Place(tmp_path)).row
    torch.manual_seed(0)
    drawn = shaped.head.build().state_dict()
    assert row["shaping_updates"] == 0 and moved(drawn, weights[1]) == {"head.weight"}


def test_the_controls_of_shaping_differ_in_its_epochs_alone(corpus):
    parameters = e01.Exp01(seeds=1)
    for blocks in (1, 2):
        whole = e01.VARIANTS[f"oacd_{blocks}_stopped"].config(parameters, corpus)
        random = e01.VARIANTS[f"random_{blocks}"].config(parameters, corpus)
        assert replace(random, shaping=whole.shaping) == whole and random.shaping is None
        for epochs in (1, 2, 3):
            fewer = e01.VARIANTS[f"shaped_{epochs}_{blocks}"].config(parameters, corpus)
            assert fewer == replace(whole, shaping=replace(whole.shaping, epochs=epochs))


def test_two_phases_that_were_stopped_in_either_end_with_the_same_numbers(
    shaped, tmp_path, monkeypatch
):
    whole = run_two_phases(shaped, 0, Place(tmp_path / "whole"))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 1e9)
    losses, count = WindowWork.losses, []

    def stopping(self, batch):
        count.append(1)
        if len(count) in (3, 11):
            raise KeyboardInterrupt
        yield from losses(self, batch)

    monkeypatch.setattr(WindowWork, "losses", stopping)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_two_phases(shaped, 0, Place(tmp_path / "stopped"))
    again = run_two_phases(shaped, 0, Place(tmp_path / "stopped"))
    assert again.row == whole.row
    assert [row["val_ppl"] for row in again.tables["curve"]] == [
        row["val_ppl"] for row in whole.tables["curve"]
    ]


@pytest.mark.parametrize(
    ("variants", "row", "refined", "updates"),
    [
        (e01.VARIANTS, "lct_2_one_loss_batch_4", "lct_2", 78),
        (e03.VARIANTS, "looped_batch_8", "irt", 39),
    ],
)
def test_small_batches_step_about_as_often_as_a_loss_for_each_segment(
    variants, row, refined, updates
):
    assert replace(variants[row].objective, joint=False) == variants[refined].objective
    assert variants[row].model == variants[refined].model
    assert -(-WINDOWS // variants[row].training["batch_size"]) == updates
    refined_updates = -(-WINDOWS // 16) * variants[refined].objective.segments
    assert 0 <= refined_updates - updates <= 2


def test_without_look_ahead_a_reset_memory_is_an_emptied_one_bit_for_bit():
    torch.manual_seed(0)
    blind = HIDDEN.build(97)
    emptied = HRMConfig(memory="hidden", memory_off=True).build(97)
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
    blind = HRMConfig(memory=memory, causal_memory=True)
    causal(blind, FilledMemory(2))
    with pytest.raises(CheckFailed, match="sees the future"):
        causal(replace(blind, causal_memory=False), FilledMemory(2))
    torch.manual_seed(0)
    model = blind.build(97)
    with torch.no_grad():
        empty, filled = (kind(2).predict(model, SYMBOLS) for kind in (Segments, FilledMemory))
    assert (empty - filled).abs().max() > 1e-4


def test_the_notebooks_checks_say_who_looks_ahead(capsys):
    few = ("hrm", "hidden_reset", "hidden_emptied", "infini_carry_causal")
    memories_look_ahead({name: e02.VARIANTS[name] for name in few})
    said = capsys.readouterr().out.splitlines()
    assert ["looks ahead" in line for line in said] == [False, True, False, False]
    broken = replace(e02.E02, variants={"hidden_reset": e02.VARIANTS["hidden_reset"]})
    with pytest.raises(CheckFailed, match="sees the future"):
        all_causal(broken)


def test_the_controls_state_how_many_parameters_of_hrm_are_trained():
    trained = {}
    for name in ("hrm", "irt"):
        variant = e03.VARIANTS[name]
        model, objective = variant.model.build(97), variant.objective
        objective.begin_epoch()
        for loss in objective.losses(model, SYMBOLS, SYMBOLS):
            loss.backward()
        trained[name] = sum(p.numel() for p in model.parameters() if p.grad is not None)
    assert trained == {"hrm": 49_344, "irt": 82_176}
    control = next(c.control for c in e03.CLAIMS if c.id == "exp03-hierarchy-adds-little")
    assert "49,344" in control and "82,176" in control


def test_a_run_that_two_variants_share_is_recorded_once(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "TABLES", tmp_path)
    rows = [
        {"variant": name, "label": name, "corpus": "repeated", "size": "full", "seed": 0,
         "run_id": "a", "val_ppl": 9.0}
        for name in ("lpt_1", "standard_1")
    ]  # fmt: skip
    keys = ("variant", "corpus", "size", "seed", "run_id")
    curve = [{**{k: row[k] for k in keys}, "epoch": e} for row in rows for e in (1, 2)]
    clock = [{**curve[0], "run_id": "side", "speedup": 2.0}]
    for name, own in (("", rows), ("curve", curve), ("clock", clock)):
        file = f"07_x_{name}.csv" if name else "07_x.csv"
        pd.DataFrame(own).to_csv(tmp_path / file, index=False)
    found = store.recorded("07_x")
    assert [row["epoch"] for row in found["a"]["tables"]["curve"]] == [1, 2]
    assert found["side"]["row"]["corpus"] == "repeated"  # a side run's text names its main run
