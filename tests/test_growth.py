"""Growing: identity growth changes nothing, freezing freezes, chains of runs share their stages."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from lib.character.experiments import e05_layer_freezing as e05
from lib.character.experiments import e06_greedy_layerwise as e06
from lib.character.experiments import e07_progressive_growing as e07
from lib.character.growth_run import GrowthRun, Stage, groups, older, run_growth
from lib.character.models.growth import deepen
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import Standard
from lib.character.run import KEPT, CharacterRun, WindowWork, run_character
from lib.checks import CheckFailed
from lib.results.store import Results
from lib.runs.key import run_key
from lib.runs.task import CPU, Task, run_one
from lib.runs.tensors import load_tensors
from lib.text.corpus import load_corpus
from lib.training import loop
from lib.training.loop import Training

CONFIG = TransformerConfig(layers=2, width=16, heads=2, length=16, initialisation="B")
TRAINING = Training(epochs=2, batch_size=4, shuffle=False)
SYMBOLS = torch.randint(30, (3, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def trained():
    """A model whose norm gains have moved away from 1, differently in every direction."""
    torch.manual_seed(0)
    model = CONFIG.build(30)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.5 if "gain" in name else 0.1))
    return model


@pytest.fixture
def finish(tmp_path):
    """``finish(config, seed) -> row, tables, weights`` of a run and of those before it."""

    def ended(config, seed=0, function=run_growth):
        record = run_one(Task(function, config, seed, {}), tmp_path, CPU)
        folder = tmp_path / run_key(function, config, seed)
        weights = {name: load_tensors(folder / name)[0] for name in KEPT}
        return record["row"], record["tables"], weights

    return ended


def test_identity_growth_leaves_the_model_unchanged(trained):
    grown = deepen(trained, 4, identity=True)
    before = trained(SYMBOLS)
    assert len(grown.blocks) == 4
    assert torch.allclose(grown(SYMBOLS), before, atol=1e-4)
    assert not torch.allclose(deepen(trained, 3)(SYMBOLS), before, atol=1e-2)
    assert torch.equal(deepen(trained, 2)(SYMBOLS), before)


def test_growth_refuses_to_shrink_and_identity_without_a_block(trained):
    with pytest.raises(ValueError, match="cannot grow"):
        deepen(trained, 1)
    with pytest.raises(ValueError, match="at least one block"):
        deepen(replace(CONFIG, layers=0).build(30), 1, identity=True)


def path(*stages, **settings):
    corpus = load_corpus("repeated", train_chars=600, valid_chars=300)
    return GrowthRun(corpus, replace(CONFIG, layers=1), stages, TRAINING, **settings)


def test_a_path_of_one_stage_is_plain_training_bit_for_bit(finish):
    config = path(Stage(2))
    row, _, weights = finish(config, 3)
    plain = CharacterRun(config.corpus, CONFIG, Standard(), TRAINING, 16, True, keep=True)
    other, _, same = finish(plain, 3, run_character)
    assert row["val_ppl"] == other["val_ppl"] and row["params"] == other["params"]
    for name in KEPT:
        assert all(torch.equal(weights[name][key], same[name][key]) for key in same[name])


def test_paths_that_begin_alike_train_their_stages_once(finish, tmp_path):
    frozen, full = path(Stage(1), Stage(2, trains="new")), path(Stage(1), Stage(2, start="best"))
    row, tables, _ = finish(frozen)
    known = set(tmp_path.iterdir())
    started = [finish(full)[0], finish(replace(full, path=full.path[:1]))[0]]
    assert len(known) == 2 and len(set(tmp_path.iterdir()) - known) == 1
    assert row["trainable"] == 16 * 16**2 + 2 * 16 + 16 * len(frozen.corpus.alphabet)
    assert row["operations"] < started[0]["operations"]  # freezing saves the backward pass
    assert [line["stage"] for line in tables["curve"]] == [1, 1, 2, 2]
    spent = [line["operations"] for line in tables["curve"]]
    assert spent == sorted(spent) and spent[-1] == row["operations"]
    assert spent[1] == started[1]["operations"]


def test_an_identity_begins_where_the_stage_before_was_best(finish):
    before = finish(path(Stage(1)))[0]
    grown = finish(path(Stage(1), Stage(2, start="best", identity=True)))[0]
    assert grown["begin_val_ppl"] == pytest.approx(before["val_ppl"], rel=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_stage_goes_on_from_the_state_it_names(finish, dropout):
    def end(*stages):
        config = path(*stages)
        return finish(replace(config, model=replace(config.model, dropout=dropout)))[0]

    before = end(Stage(1))
    begun = {s: end(Stage(1), Stage(1, start=s)) for s in ("best", "last")}
    assert begun["best"]["begin_val_ppl"] == pytest.approx(before["val_ppl"], rel=1e-6)
    assert begun["last"]["begin_val_ppl"] == pytest.approx(before["last_val_ppl"], rel=1e-6)


def test_frozen_parameters_do_not_move(finish):
    config = path(Stage(2, trains="new"))
    _, _, weights = finish(config)
    torch.manual_seed(0)
    fresh = CONFIG.build(len(config.corpus.alphabet))
    last = weights["last.safetensors"]
    assert torch.equal(last["embedding.weight"], fresh.embedding.weight)
    assert not torch.equal(last["head.weight"], fresh.head.weight)


def test_a_path_that_was_stopped_between_its_stages_ends_with_the_same_bits(
    finish, tmp_path, monkeypatch
):
    config = path(Stage(1), Stage(2, start="best"))
    whole = finish(config)[2]
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 1e9)
    step, steps = loop._Loop._step, []
    stage = 2 * (len(config.stage.windows("train")) // TRAINING.batch_size)  # its updates

    def stopping(self, *given):
        steps.append(1)
        if len(steps) == stage + 5:
            raise KeyboardInterrupt
        step(self, *given)

    monkeypatch.setattr(loop._Loop, "_step", stopping)
    again = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        run_one(Task(run_growth, config, 0, {}), again, CPU)
    first = run_key(run_growth, config.before, 0)
    assert (again / first / "run.json").is_file() and len(list(again.glob("*/run.json"))) == 1
    run_one(Task(run_growth, config, 0, {}), again, CPU)
    assert len(steps) == 2 * stage + 1, "only the update that was stopped is made again"
    for name in KEPT:
        weights = load_tensors(again / run_key(run_growth, config, 0) / name)[0]
        assert all(torch.equal(weights[key], whole[name][key]) for key in weights)


def stepped(rate: float, old_rate: float):
    """A model after an epoch whose head does not move, at a rate and factor of the old layers."""
    config = path(Stage(1))
    stage = Stage(2, old_rate=old_rate)
    torch.manual_seed(0)
    model = replace(CONFIG, initialisation="A").build(len(config.corpus.alphabet))
    model.head.weight.requires_grad_(False)  # the head always keeps the full rate
    numbers = Training(epochs=1, batch_size=8, learning_rate=rate, shuffle=False)
    windows = config.stage.windows("train"), config.stage.windows("valid")
    work = WindowWork(model, Standard(), windows, numbers, 0, groups(model, stage, 0))
    loop.train(work, numbers)
    return model


def test_a_slower_rate_is_a_smaller_learning_rate_and_1_changes_nothing():
    slow, small = stepped(1e-3, 0.1), stepped(1e-4, 1.0)
    for one, other in zip(older(slow, 0), older(small, 0), strict=True):
        assert torch.allclose(one, other, atol=1e-7)
    assert len(groups(slow, Stage(2), 1)) == 1
    fast, old = groups(slow, Stage(2, old_rate=0.1), 1)
    assert (fast[1], old[1]) == (1.0, 0.1)
    counts = [sum(p.numel() for p in group[0]) for group in (fast, old)]
    assert sum(counts) == sum(p.numel() for p in slow.parameters())
    assert counts[0] == 16 * 16**2 + 2 * 16 + slow.head.weight.numel()


def test_a_stage_or_path_that_cannot_be_is_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match="allowed: all, new"):
        Stage(1, trains="some")
    with pytest.raises(ValueError, match="at least one stage"):
        path()
    with pytest.raises(ValueError, match="never gets shallower"):
        path(Stage(4), Stage(3))
    with pytest.raises(ValueError, match="nothing to be an identity on"):
        path(Stage(1, identity=True))


def test_a_frozen_embedding_begins_as_greedy_training_and_stays(finish):
    greedy = finish(path(Stage(1, trains="new")))[0]
    once, _, first = finish(path(Stage(1), frozen_embedding=True))
    twice, _, second = finish(path(Stage(1), Stage(1, start="best"), frozen_embedding=True))
    clock = {"seconds": 0}
    assert once | clock == greedy | clock
    assert twice["begin_val_ppl"] == once["val_ppl"] != twice["val_ppl"]
    assert twice["trainable"] == once["trainable"] < once["params"]
    last = "last.safetensors"
    assert torch.equal(first[last]["embedding.weight"], second[last]["embedding.weight"])
    assert not torch.equal(first[last]["head.weight"], second[last]["head.weight"])


@pytest.mark.parametrize(
    ("restarted", "grown"),
    [
        (e05.VARIANTS["restarted_best"], e05.VARIANTS["full_best"]),
        (e06.VARIANTS["greedy_1_restarted"], e06.VARIANTS["greedy_4"]),
        (e06.VARIANTS["greedy_1_restarted_best"], e06.VARIANTS["greedy_4_best"]),
        (e07.VARIANTS["restarted"], e07.VARIANTS["standard_4_best"]),
    ],
)
def test_a_restart_control_differs_from_growing_in_depth_alone(restarted, grown):
    assert len(restarted.path) == len(grown.path)
    assert {stage.layers for stage in restarted.path} == {grown.path[0].layers}
    for one, other in zip(restarted.path, grown.path, strict=True):
        assert replace(one, layers=1, trains="all") == replace(other, layers=1, trains="all")


def test_identity_growth_keeps_the_last_reading_and_moves_the_one_below():
    model = TransformerConfig(width=16, layers=2).build(11)
    with torch.no_grad():
        model.blocks[1].feed_forward_norm.gain.uniform_(0.8, 1.2)
    ids = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(0))
    before, after = (m.hidden_states(ids) for m in (model, deepen(model, 3, identity=True)))
    torch.testing.assert_close(after[-1], before[-1])
    assert not torch.allclose(after[-2], before[-1], atol=1e-2)


def test_identity_growth_that_moves_the_perplexity_fails_its_check():
    rows = [("base", 9.0, 1.0), ("full_best_identity", 8.0, 9.0)]
    frame = pd.DataFrame(rows, columns=["variant", "val_ppl", "begin_val_ppl"])
    frame = frame.assign(corpus="repeated", seed=0)
    e05.identity_is_exact(Results("05_layer_freezing", {"": frame}))
    with pytest.raises(CheckFailed, match="moved the perplexity"):
        moved = frame.assign(begin_val_ppl=9.01)
        e05.identity_is_exact(Results("05_layer_freezing", {"": moved}))


def test_weights_that_were_deleted_are_trained_again(finish, tmp_path):
    config = path(Stage(1), Stage(2))
    finish(config.before)
    kept = tmp_path / run_key(run_growth, config.before, 0) / "last.safetensors"
    before = load_tensors(kept)[0]
    kept.unlink()
    finish(config)
    after = load_tensors(kept)[0]
    assert all(torch.equal(before[name], after[name]) for name in before)
