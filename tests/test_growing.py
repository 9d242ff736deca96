"""Growing: identity growth changes nothing, freezing freezes, slower rates are smaller rates."""

from dataclasses import replace

import pytest
import torch
from lib.character.growing import GrowthRun, SlowerOldLayers, Stage, older, run
from lib.training.fit import Training, fit

from lib.character import fixed_embedding
from lib.character.experiments import e05_layer_freezing as exp05
from lib.character.experiments import e06_greedy_layerwise as exp06
from lib.character.experiments import e07_progressive_growing as exp07
from lib.character.models.growth import deepen
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import Standard
from lib.text.corpus import load_corpus
from lib.training import fit as loop

CONFIG = TransformerConfig(30, layers=2, width=16, heads=2, length=16, initialisation="B")
TRAINING = Training(epochs=2, batch_size=4, shuffle=False)


@pytest.fixture
def trained():
    """A model whose norm gains have moved away from 1, differently in every direction."""
    torch.manual_seed(0)
    model = CONFIG.build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.5 if "gain" in name else 0.1))
    return model


def symbols():
    return torch.randint(30, (3, 16), generator=torch.Generator().manual_seed(1))


def test_identity_growth_leaves_the_model_unchanged(trained):
    before = trained(symbols())
    grown = deepen(trained, 4, identity=True)
    assert len(grown.blocks) == 4
    assert torch.allclose(grown(symbols()), before, atol=1e-4)


def test_growth_by_chance_does_change_it(trained):
    assert not torch.allclose(deepen(trained, 3)(symbols()), trained(symbols()), atol=1e-2)


def test_growing_by_nothing_is_a_copy(trained):
    assert torch.equal(deepen(trained, 2)(symbols()), trained(symbols()))


def test_growth_refuses_to_shrink_and_identity_without_a_block(trained):
    with pytest.raises(ValueError, match="cannot grow"):
        deepen(trained, 1)
    with pytest.raises(ValueError, match="at least one block"):
        deepen(TransformerConfig(30, layers=0, width=16, heads=2).build(), 1, identity=True)


def small_run(*paths):
    corpus = load_corpus("repeated", train_chars=600, valid_chars=300)
    model = TransformerConfig(len(corpus.alphabet), 1, 16, 2, 16, "B")
    named = tuple((f"path {i}", path) for i, path in enumerate(paths))
    return GrowthRun(corpus, model, named, TRAINING)


def test_a_path_of_one_stage_is_plain_training_bit_for_bit(tmp_path):
    config = small_run((Stage(2),))
    row = run(config, 3, tmp_path).tables["paths"][0]
    torch.manual_seed(3)
    model = TransformerConfig(config.model.vocabulary, 2, 16, 2, 16, "B").build()
    record = fit(model, Standard(), config.windows("train"), config.windows("valid"), TRAINING, 3)
    assert row["val_ppl"] == record.val_ppl
    assert row["params"] == sum(parameter.numel() for parameter in model.parameters())


def test_paths_share_stages_and_resume_to_the_same_rows(tmp_path, monkeypatch):
    frozen = (Stage(1), Stage(2, trains="new"))
    full = (Stage(1), Stage(2, start="best", identity=True))
    config = small_run(frozen, full)
    first = run(config, 0, tmp_path)
    assert len(list(tmp_path.glob("checkpoint_*.pt"))) == 3
    epochs, real = [], loop._epoch
    monkeypatch.setattr(loop, "_epoch", lambda *given: epochs.append(given[5]) or real(*given))
    again = run(config, 0, tmp_path)
    assert not epochs, "every stage comes from its checkpoint"
    assert [row["val_ppl"] for row in again.tables["paths"]] == [
        row["val_ppl"] for row in first.tables["paths"]
    ]
    rows = first.tables["paths"]
    assert rows[0]["trainable"] == 16 * 16**2 + 2 * 16 + 16 * config.model.vocabulary
    alone = run(small_run((Stage(1),)), 0, tmp_path / "alone").tables["paths"][0]
    assert rows[1]["begin_val_ppl"] == pytest.approx(alone["val_ppl"], rel=1e-4)
    assert rows[0]["operations"] < rows[1]["operations"]  # freezing saves the backward pass


def test_frozen_parameters_do_not_move(tmp_path):
    config = small_run((Stage(2, trains="new"),))
    run(config, 0, tmp_path)
    torch.manual_seed(0)
    fresh = TransformerConfig(config.model.vocabulary, 2, 16, 2, 16, "B").build()
    saved = torch.load(next(tmp_path.glob("checkpoint_*.pt")), weights_only=True)["model"]
    assert torch.equal(saved["embedding.weight"], fresh.embedding.weight)
    assert not torch.equal(saved["head.weight"], fresh.head.weight)


@pytest.mark.parametrize("ratio", [1.0, 0.1])
def test_a_slower_rate_is_a_smaller_learning_rate(ratio):
    config = small_run((Stage(1),))
    models = []
    for rate, objective in (
        (1e-3, SlowerOldLayers(Standard(), ratio, new=0)),
        (1e-3 * ratio, Standard()),
    ):
        torch.manual_seed(0)
        model = TransformerConfig(config.model.vocabulary, 2, 16, 2, 16, "A").build()
        one = Training(epochs=1, batch_size=64, learning_rate=rate, shuffle=False)
        model.head.weight.requires_grad_(False)  # the head always keeps the full rate
        fit(model, objective, config.windows("train"), config.windows("valid"), one, 0)
        models.append(model)
    for slow, small in zip(older(models[0], 0), older(models[1], 0), strict=True):
        assert torch.allclose(slow, small, atol=1e-7)


def test_an_unknown_word_in_a_stage_is_refused():
    with pytest.raises(ValueError, match="allowed: all, new"):
        Stage(1, trains="some")


def test_going_on_with_a_fixed_embedding_begins_as_greedy_training_and_keeps_the_embedding(
    tmp_path,
):
    config = small_run((Stage(1),), (Stage(1), Stage(1, start="best")))
    greedy = run(small_run((Stage(1, trains="new"),)), 0, tmp_path / "greedy").tables["paths"][0]
    once, twice = fixed_embedding.run(config, 0, tmp_path).tables["paths"]
    times = ("seconds",)
    assert {k: v for k, v in once.items() if k not in times} == {
        k: v for k, v in {**greedy, "variant": "path 0"}.items() if k not in times
    }
    assert twice["begin_val_ppl"] == once["val_ppl"] != twice["val_ppl"]
    assert twice["trainable"] == once["trainable"] == once["params"] - 16 * config.model.vocabulary
    found = [torch.load(f, weights_only=True)["model"] for f in tmp_path.glob("checkpoint_*.pt")]
    assert len(found) == 2
    assert torch.equal(found[0]["embedding.weight"], found[1]["embedding.weight"])
    assert not torch.equal(found[0]["head.weight"], found[1]["head.weight"])


@pytest.mark.parametrize(
    ("restarted", "grown"),
    [
        (exp05.RESTARTED["3-layer, restarted from best epoch"], exp05.PATHS["full, best epoch"]),
        (
            exp06.RESTARTED["greedy 1, restarted three times"],
            exp06.PATHS["greedy 4"],
        ),
        (
            exp06.RESTARTED["greedy 1, restarted three times, best epochs"],
            exp06.PATHS["greedy 4, best epochs"],
        ),
        (
            exp07.RESTARTED[exp07.ONE_RESTARTED],
            exp07.PATHS["Standard progressive 4, best epochs"],
        ),
    ],
)
def test_a_restart_control_differs_from_growing_in_depth_alone(restarted, grown):
    assert len(restarted) == len(grown)
    assert {stage.layers for stage in restarted} == {grown[0].layers}
    for one, other in zip(restarted, grown, strict=True):
        assert replace(one, layers=1, trains="all") == replace(other, layers=1, trains="all")
