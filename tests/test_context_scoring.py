"""The exact softmax over a whole vocabulary by one shared row, against the plain one."""

import math

import pytest
import torch
from torch.nn import functional

from lib.context.block import TokenBlock
from lib.context.features import Features, Held
from lib.context.head import NextTokenModel, SharedRowHead, UntiedHead, represented_parameters
from lib.context.phase_two import PhaseTwoWork, evaluate, recipe
from lib.context.token_stream import full_vocabulary
from lib.training.loop import train

V, D = 50, 6
RATE = 3e-2


def streams():
    """Ids of train (few types), and of a held-out text that has others as well."""
    g = torch.Generator().manual_seed(0)
    return torch.randint(12, (60,), generator=g) * 3, torch.randint(V, (40,), generator=g)


def features(ids, outputs, seed=0):
    g = torch.Generator().manual_seed(seed)
    table = torch.randn(V, D, generator=g)
    return Features(Held([torch.randn(len(ids), 5, generator=g)] * 2), table[ids], outputs)


def both():
    """The same training by the shared row and by the whole softmax over V rows."""
    train_ids, test_ids = streams()
    vocabulary = full_vocabulary(train_ids, torch.cat([train_ids, torch.tensor([1, 4])]), V)
    found = {}
    for name in ("shared", "whole"):
        head = SharedRowHead(D, vocabulary) if name == "shared" else UntiedHead(D, V)
        model = NextTokenModel(TokenBlock(D, D, [5, 5], seed=1), head)
        outputs = vocabulary.encode if name == "shared" else torch.clone
        parts = [features(ids, outputs(ids)) for ids in (train_ids, test_ids)]
        # a small clip, so that the norm of the whole gradient matters
        training = recipe(batch=20, rate=RATE, epochs=4, patience=0)
        training = type(training)(**{**vars(training), "clip": 0.05})
        fit = train(PhaseTwoWork(model, parts[0], parts[1], training), training)
        found[name] = (model, parts[1], fit)
    return vocabulary, found


def test_shared_row_equals_the_whole_softmax():
    vocabulary, found = both()
    (shared, part, fit), (whole, plain, expected) = found["shared"], found["whole"]
    for ours, theirs in zip(fit.curve, expected.curve, strict=True):
        for metric in ("train_loss", "valid_loss"):
            assert ours[metric] == pytest.approx(theirs[metric], rel=1e-5)
    rows = whole.head.linear.weight
    torch.testing.assert_close(
        shared.head.rows.linear.weight, rows[vocabulary.types], rtol=1e-4, atol=1e-6
    )
    never = torch.ones(V, dtype=torch.bool)
    never[vocabulary.types] = False
    assert int(never.sum()) == vocabulary.shared
    stored = (shared.head.weight / shared.head.scale).expand(vocabulary.shared, D)
    torch.testing.assert_close(stored, rows[never], rtol=1e-4, atol=1e-6)
    ours, theirs = evaluate(shared, part), evaluate(whole, plain)
    assert ours["ppl"] == pytest.approx(theirs["ppl"], rel=1e-5)
    assert ours["acc"] == theirs["acc"]
    assert represented_parameters(shared) == represented_parameters(whole)


def test_held_perplexity_is_that_of_the_softmax_over_the_held_types():
    vocabulary, found = both()
    shared, part, _ = found["shared"]
    whole, plain, _ = found["whole"]
    held = vocabulary.held.nonzero()[:, 0]
    contexts, tokens, targets = plain.batch(0, plain.positions)
    logits = whole.head(whole.token_block(contexts, tokens))[:, held]
    kept = torch.isin(targets, held)
    place = torch.searchsorted(held, targets[kept])
    loss = functional.cross_entropy(logits[kept], place)
    assert evaluate(shared, part)["held_ppl"] == pytest.approx(math.exp(loss.item()), rel=1e-5)


def test_classes_of_the_full_vocabulary():
    ids, other = torch.tensor([7, 3, 3, 5]), torch.tensor([7, 3, 5, 1])
    vocabulary = full_vocabulary(ids, other, 10)
    assert vocabulary.types.tolist() == [3, 5]  # 7 is read first and never a target
    assert (vocabulary.size, vocabulary.shared, vocabulary.shared_held) == (10, 8, 2)
    assert vocabulary.encode(torch.tensor([3, 5, 7, 1, 0])).tolist() == [0, 1, 2, 2, 3]
    assert vocabulary.unscored_share(torch.tensor([3, 0, 9, 1])) == 0.5
