"""Early exit: dense, compacted and cached forms agree; a threshold above 1 is the full model."""

import pytest
import torch

from lib.character.models.generation import Decoder, generate, generate_uncached
from lib.character.models.routed import compacted, confidence, routed
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import LayerLosses, Routed, Standard
from lib.character.probe_run import Probe
from lib.character.run import CharacterRun

CONFIG = TransformerConfig(layers=4, width=32, heads=2, length=24)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = CONFIG.build(20).eval()
    with torch.no_grad():
        network.embedding.weight.normal_()
        network.head.weight.mul_(2)
    return network


def symbols(rows=5):
    return torch.randint(20, (rows, 24), generator=torch.Generator().manual_seed(1))


def middle(model):
    """A threshold at which about half of the symbols exit."""
    shallow = model.head(model.hidden_states(symbols())[2])
    return confidence(shallow).median().item()


@pytest.mark.parametrize("keep", ["propagate", "recompute"])
def test_a_threshold_above_one_is_the_full_model(model, keep):
    with torch.no_grad():
        full = model(symbols())
        assert torch.equal(routed(model, symbols(), 2, 1.01)[0], full)
        logits, exits = compacted(model, symbols(), 2, 1.01, keep)
    assert not exits.any()
    assert torch.allclose(logits, full, atol=1e-5)


@pytest.mark.parametrize("keep", ["propagate", "recompute"])
def test_a_threshold_of_zero_is_the_shallow_model(model, keep):
    with torch.no_grad():
        logits, exits = compacted(model, symbols(), 2, 0.0, keep)
        assert exits.all()
        assert torch.equal(logits, model.head(model.hidden_states(symbols())[2]))


def test_recomputed_compaction_is_exact_and_propagation_is_not(model):
    threshold = middle(model)
    with torch.no_grad():
        dense, exits = routed(model, symbols(), 2, threshold)
        exact, same = compacted(model, symbols(), 2, threshold, "recompute")
        approximate, _ = compacted(model, symbols(), 2, threshold, "propagate")
    assert 0.2 < exits.float().mean() < 0.8
    assert torch.equal(exits, same)
    assert torch.allclose(exact, dense, atol=1e-5)
    assert not torch.allclose(approximate, dense, atol=1e-3)
    assert torch.equal(approximate[exits], dense[exits])


def test_compaction_is_causal(model):
    threshold, changed = middle(model), symbols()
    changed[:, 15:] = (changed[:, 15:] + 1) % 20
    with torch.no_grad():
        before, after = (compacted(model, x, 2, threshold)[0] for x in (symbols(), changed))
    assert torch.allclose(before[:, :15], after[:, :15], atol=1e-5)


def read(model, threshold, keep, prompt=0):
    decoder = Decoder(model, 2, threshold, keep, length=24)
    text = symbols(1)[0]
    if prompt:
        decoder.prefill(text[:prompt])
    return torch.stack([decoder.step(int(s)) for s in text[prompt:]]), decoder


@pytest.mark.parametrize("prompt", [0, 7])
def test_cached_reading_equals_uncached(model, prompt):
    with torch.no_grad():
        full = model(symbols(1))[0, prompt:]
    for keep in ("propagate", "recompute"):
        logits, decoder = read(model, 1.01, keep, prompt)
        assert decoder.exited == 0
        assert torch.allclose(logits, full, atol=1e-5)


@pytest.mark.parametrize("keep", ["propagate", "recompute"])
def test_cached_early_exit_equals_batched(model, keep):
    threshold = middle(model)
    logits, decoder = read(model, threshold, keep)
    with torch.no_grad():
        batched, exits = compacted(model, symbols(1), 2, threshold, keep)
    assert decoder.exited == exits.sum() > 0
    assert torch.allclose(logits, batched[0], atol=1e-5)


def test_generation_with_a_cache_equals_generation_without(model):
    prompt = symbols(1)[0, :8]
    made = generate(Decoder(model, 2, 1.01, length=24), prompt, 12)
    assert torch.equal(made, generate_uncached(model, prompt, 12))


def test_the_cache_says_when_it_is_full(model):
    decoder = Decoder(model, 2, 0.5, length=2)
    decoder.step(1), decoder.step(2)
    with pytest.raises(ValueError, match="full"):
        decoder.step(3)


def test_routing_changes_evaluation_only(model):
    weights = (0, 0.5, 0, 0.5)
    objectives = (LayerLosses(weights), Routed(weights, threshold=0.0))
    losses = []
    for objective in objectives:
        objective.begin_epoch()
        losses.append(next(objective.losses(model, symbols(), symbols())))
    assert torch.equal(*losses)
    with torch.no_grad():
        shallow = model.head(model.hidden_states(symbols())[2])
        assert torch.equal(objectives[1].predict(model, symbols()), shallow)
        off = Routed(weights, threshold=1.01).predict(model, symbols())
        assert torch.equal(off, objectives[0].predict(model, symbols()))


@pytest.mark.parametrize("layer", [0, 4])
def test_an_exit_layer_must_lie_below_the_last(model, layer):
    network = CharacterRun(None, CONFIG, Standard())
    for use in (
        lambda: routed(model, symbols(), layer, 0.5),
        lambda: Decoder(model, layer, 0.5),
        lambda: Probe(network, layer),
    ):
        with pytest.raises(ValueError, match="allowed: 1 to 3"):
            use()
