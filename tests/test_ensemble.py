"""Seeds trained together give the numbers of seeds trained alone."""

import pytest
import torch

from lib.character.ensemble import run_together, train_together
from lib.character.experiments.e03_iterative_refinement import VARIANTS
from lib.character.models.hrm import HRMConfig
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import LayerLosses, Segments, Standard
from lib.character.parameters import CharacterParameters
from lib.character.run import CharacterRun, run_character
from lib.runs import engines
from lib.runs.task import CannotJoin, Place, Task
from lib.training.loop import Training

SEEDS = [0, 1, 2]


@pytest.fixture(scope="module")
def text():
    return CharacterParameters.checked(
        {"corpus": "embedded", "train_chars": 2_500, "valid_chars": 1_000, "test_chars": 1_000}
    ).load()


@pytest.mark.parametrize(("variant", "rate"), [("standard", 2e-2), ("irt", 3e-3), ("hrm", 3e-3)])
def test_together_equals_alone(text, tmp_path, variant, rate):
    entry = VARIANTS[variant]
    # the fast rate lets seeds stop at different epochs
    training = Training(epochs=10 if rate > 1e-2 else 3, patience=1, learning_rate=rate)
    config = CharacterRun(text, entry.model, entry.objective, training)
    fits = train_together(config, SEEDS, torch.device("cpu"))
    for seed, fit in zip(SEEDS, fits, strict=True):
        alone = run_character(config, seed, Place(tmp_path / str(seed)))
        assert fit.best_epoch == alone.row["best_epoch"]
        assert len(fit.curve) == alone.row["epochs"]
        assert fit.val_ppl == pytest.approx(alone.row["val_ppl"], rel=1e-4)
    assert len({len(fit.curve) for fit in fits}) > 1 or variant != "standard"


def test_first_update_is_equal_to_1e5(text, tmp_path):
    entry = VARIANTS["standard"]
    config = CharacterRun(text, entry.model, entry.objective, Training(epochs=1))
    fits = train_together(config, SEEDS, torch.device("cpu"))
    for seed, fit in zip(SEEDS, fits, strict=True):
        alone = run_character(config, seed, Place(tmp_path / str(seed)))
        assert fit.valid_loss == pytest.approx(alone.tables["curve"][0]["valid_loss"], abs=1e-5)


def test_a_network_that_cannot_be_stacked_says_so(text):
    config = CharacterRun(text, HRMConfig(memory="input"), Segments(2), Training(epochs=1))
    with pytest.raises(CannotJoin, match="gate"):
        train_together(config, SEEDS, torch.device("cpu"))


def test_seeds_that_drop_out_for_themselves_are_not_computed_as_one(text, tmp_path):
    config = CharacterRun(text, TransformerConfig(dropout=0.1), Standard(), Training(epochs=1))
    with pytest.raises(CannotJoin, match="each seed draws for itself"):
        run_together(config, SEEDS, [Place(tmp_path / str(seed)) for seed in SEEDS])


def test_an_accelerator_trains_the_seeds_of_a_variant_together(text, tmp_path, monkeypatch):
    entry = VARIANTS["standard"]
    config = CharacterRun(text, entry.model, entry.objective, Training(epochs=1))
    tasks = [Task(run_character, config, seed, {"variant": "standard"}) for seed in SEEDS]
    called = []

    def spy(*given):
        called.append(given[1])
        return run_together(*given)

    assert run_character.together is run_together  # as the registry's experiments have it
    monkeypatch.setattr(run_character, "together", spy)
    found = list(engines._seeds_together(tasks, tmp_path, torch.device("cpu")))
    assert called == [SEEDS]
    assert [task.seed for task, _ in found] == SEEDS
    assert all((tmp_path / task.key() / "run.json").is_file() for task in tasks)


def test_what_a_curve_holds_of_each_seed_is_not_trained_together(text, tmp_path, capsys):
    config = CharacterRun(
        text, TransformerConfig(layers=2), LayerLosses((1, 1)), Training(epochs=1)
    )
    tasks = [Task(run_character, config, seed, {"variant": "lpt"}) for seed in SEEDS]
    found = list(engines._seeds_together(tasks, tmp_path, torch.device("cpu")))
    assert "seeds one by one (measures of the training" in capsys.readouterr().out
    assert all("train_loss_layer_1" in record["tables"]["curve"][0] for _, record in found)


def test_seeds_that_fail_together_are_tried_one_by_one(text, tmp_path, monkeypatch, capsys):
    entry = VARIANTS["standard"]
    config = CharacterRun(text, entry.model, entry.objective, Training(epochs=1))
    tasks = [Task(run_character, config, seed, {"variant": "standard"}) for seed in SEEDS]

    def breaks(*given):
        raise IndexError("out of range")

    monkeypatch.setattr(run_character, "together", breaks)
    found = list(engines._seeds_together(tasks, tmp_path, torch.device("cpu")))
    assert [record["seed"] for _, record in found] == SEEDS
    assert "standard, seed 0: seeds one by one (out of range)" in capsys.readouterr().out
