"""Blocks that run more than once: in training, begun late, and in use."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from test_objectives import equal

from lib.character import looping
from lib.character.ensemble import run_together
from lib.character.experiments.e24_where_to_loop import E24, LAYERED, PASSED, used_change
from lib.character.looping import Continued, Passes
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import Segments, Standard, Visits
from lib.character.run import CharacterRun, run_character
from lib.results.store import Results
from lib.runs.task import CannotJoin, Place
from lib.runs.tensors import load_tensors
from lib.training.loop import Training

STATEFUL = TransformerConfig(initial_state=True)


def test_blocks_run_in_the_order_that_is_asked_for():
    model = TransformerConfig(layers=3).build(97)
    symbols = torch.randint(97, (2, 64))
    x = model.embedding(symbols)
    for number in (0, 1, 2, 1):
        x = model.blocks[number](x)
    assert torch.equal(Visits((0, 1, 2, 1)).predict(model, symbols), model.head(x))


def test_numbers_of_segments_are_drawn_in_training_only(monkeypatch):
    objective, model = Segments(4, joint=True, most=4), STATEFUL.build(97)
    symbols, seen = torch.randint(97, (2, 64)), []
    segment = model.segment
    model.segment = lambda *given: seen.append(1) or segment(*given)
    counts = []
    objective.begin_epoch()
    for _ in range(60):
        seen.clear()
        (loss,) = objective.losses(model, symbols, symbols)
        counts.append(len(seen))
    assert set(counts) == {1, 2, 3, 4}
    before = torch.random.get_rng_state()
    seen.clear()
    objective.predict(model, symbols)
    assert len(seen) == 4 and torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ValueError, match="under one joint loss only"):
        Segments(4, most=4)


@pytest.fixture
def place(tmp_path):
    """Makes a place of its own for every call."""
    runs = tmp_path / "runs"

    def made(name="here"):
        (runs / name).mkdir(parents=True, exist_ok=True)
        return Place(runs / name)

    return made


def described(corpus, objective, model=STATEFUL, **numbers):
    return CharacterRun(corpus, model, objective, Training(epochs=2, **numbers), keep=True)


def test_what_is_continued_begins_at_the_best_weights(corpus, place, monkeypatch):
    first = described(corpus, Standard(), TransformerConfig(layers=2), learning_rate=0.05)
    begun = []

    def noted(config, model, seed, place):
        begun.append({name: value.clone() for name, value in model.state_dict().items()})
        return trained_on(config, model, seed, place)

    trained_on = looping.trained
    monkeypatch.setattr(looping, "trained", noted)
    config = Continued(first, Visits((0, 1, 0, 1)))
    row = looping.run_continued(config, 0, place("then")).row
    kept = place("then").folder.parent.glob("*/best.safetensors")
    first_kept = [path for path in kept if path.parent.name != "then"]
    assert [equal(begun[0], load_tensors(path)[0]) for path in first_kept] == [True]
    assert config.then.objective == Visits((0, 1, 0, 1)) and config.then.model == first.model
    assert row["updates"] == 2 * -(-((len(corpus.train) - 1) // 64) // 16)


def test_what_is_continued_draws_and_costs_the_same_whether_the_first_training_is_there(
    corpus, place
):
    small = TransformerConfig(width=16, heads=2, dropout=0.5)
    config = Continued(described(corpus, Standard(), small), Standard())
    made, found = (looping.run_continued(config, 0, place("then")) for _ in range(2))
    assert made.row["val_ppl"] == found.row["val_ppl"]
    seconds = sum(epoch["epoch_seconds"] for epoch in made.tables["curve"])
    assert made.row["seconds"] == round(seconds, 2), "the first training has seconds of its own"


def test_a_network_used_as_it_was_trained_has_its_own_perplexity(corpus, place):
    network = described(corpus, Segments(2))
    row = run_character(network, 0, place("network")).row
    found = looping.run_passes(Passes(network, (1, 2, 3)), 0, place("passes")).tables["passes"]
    assert [each["passes"] for each in found] == [1, 2, 3]
    assert found[1]["val_ppl"] == pytest.approx(row["val_ppl"], rel=1e-6)
    assert found[0]["val_ppl"] != found[1]["val_ppl"]


def test_seeds_that_draw_for_themselves_are_not_computed_as_one(corpus, place):
    config = replace(described(corpus, Segments(4, joint=True, most=4)), keep=False)
    with pytest.raises(CannotJoin, match="each seed draws for itself"):
        run_together(config, [0, 1], [place("0"), place("1")])


def test_loops_of_two_blocks_cost_as_much_as_six_blocks():
    orders = [LAYERED[name].objective.order for name in ("first", "middle", "last")]
    assert [len(order) for order in orders] == [LAYERED["layers_6"].model.layers] * 3
    assert all(set(order) == {0, 1, 2, 3} for order in orders)
    assert LAYERED["late"].network[1] == LAYERED["middle"].objective
    assert set(PASSED) < set(E24.variants)


def test_passes_are_compared_within_the_seeds_that_both_have():
    passes = pd.DataFrame(
        [("a", 0, 1, 10.0), ("a", 1, 1, 20.0), ("b", 0, 2, 5.0)],
        columns=["variant", "seed", "passes", "test_ppl"],
    ).assign(corpus="wikipedia", size="full", run_id="r")
    results = Results("24_where_to_loop", {"": passes, "passes": passes})
    assert list(used_change(("b", 2), ("a", 1))(results)) == [-50.0]
