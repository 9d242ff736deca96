"""Self-speculative decoding: greedy output token for token, sampling by distribution."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from lib.depth import evaluation, speculative_run
from lib.depth.experiments.e21_exit_early_lose_nothing import E21, Decoding, against
from lib.depth.generation import Session, repetition, write
from lib.depth.llama import of_base
from lib.depth.methods import Method
from lib.depth.modeling import plain_model
from lib.depth.speculative import Copier, Drafter, _kept, copied, frequent
from lib.depth.speculative_run import DRAWN, Way, run_speculative
from lib.results.store import Absent, Results
from lib.runs.clock import in_turns
from lib.runs.task import CPU, Task, run_one

SURE = (0.0, 0.1, 1.0)  # drafting always, in some rounds, never


@pytest.fixture(scope="module")
def llama(base):
    return of_base(base.model)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 280, (4, 9), generator=torch.Generator().manual_seed(1))


def test_texts_advance_together_and_each_ones_agreement_counts():
    drafts = torch.tensor([[1, 2, 3], [1, 9, 3]])
    wanted = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]])
    logits = torch.nn.functional.one_hot(wanted, 12).float()
    kept, agreed = _kept(drafts, logits, torch.empty(0), None)
    assert kept.tolist() == [[1, 2], [1, 2]] and agreed == 3 + 1
    kept, agreed = _kept(wanted[:, :3], logits, torch.empty(0), None)
    assert kept.tolist() == wanted.tolist() and agreed == 6, "and the token after the last draft"


@pytest.mark.parametrize("exit", [1, 2, 3])
@pytest.mark.parametrize("tokens", [1, 3, 8])
@pytest.mark.parametrize("words", [None, 100])
@pytest.mark.parametrize("sure", [0.0, 0.03])
def test_greedy_output_is_that_of_the_whole_network(llama, ids, exit, tokens, words, sure):
    words = words and torch.arange(words)
    plain = write(Session(llama, Method(4)), ids, 30)
    drafted, count = Drafter(llama, exit, tokens, words, sure).write(ids, 30)
    assert torch.equal(drafted, plain)
    assert 0 <= count.accepted <= count.drafted and count.rounds >= 29 // (tokens + 1)


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("same", [1, 2])
def test_copied_drafts_leave_greedy_output_as_it_is(llama, ids, tokens, same):
    texts = torch.cat([ids, ids], 1)  # so that there is something to copy
    plain = write(Session(llama, Method(4)), texts, 30)
    drafted, count = Copier(llama, tokens, same).write(texts, 30)
    assert torch.equal(drafted, plain) and 0 <= count.accepted <= count.drafted
    assert count.rounds <= 29


def test_a_text_that_repeats_itself_is_copied_in_few_rounds(llama, ids, monkeypatch):
    turn = torch.tensor([5, 9, 7])

    def logits(self, x):  # after a token of the turn comes the next one
        nearest = (x[..., None, :] - self.embed(turn)).norm(dim=-1).argmin(-1)
        return torch.nn.functional.one_hot(turn[(nearest + 1) % 3], 280).float()

    monkeypatch.setattr(type(llama), "logits", logits)
    monkeypatch.setattr("lib.depth.speculative.Pass.layer", lambda self, number, x: (x, None))
    found, count = Copier(llama, 4).write(torch.tensor([[5, 9, 7, 5, 9]]), 41)
    assert found[0].tolist() == [7, 5, 9] * 13 + [7, 5]
    assert count.accepted == count.drafted == 32 and count.rounds == 8
    _, count = Copier(llama, 4).write(ids[:1], 9)
    assert count.drafted < 4 * count.rounds, "nothing to copy at first"


def test_groups_that_stood_before_are_counted():
    turn, new = torch.tensor([1, 2, 3, 4] * 3), torch.arange(12)
    assert repetition(new[None]) == 0
    assert repetition(turn[None]) == pytest.approx(5 / 9), "nine groups, four of them new"
    assert repetition(torch.stack([turn, new])) == pytest.approx(5 / 18), "each text by itself"
    assert repetition(turn[None], 9) == 0 and repetition(turn[None], 8) == pytest.approx(1 / 5)
    with pytest.raises(ValueError, match="texts of 3 tokens hold no 4"):
        repetition(new[None, :3])


def test_what_followed_the_last_tokens_is_copied():
    assert copied([1, 2, 3, 4, 1, 2], 2, 3) == [3, 4, 1]
    assert copied([1, 2, 3, 1, 2, 4, 1, 2], 2, 1) == [4], "the nearest one"
    assert copied([8, 8, 8], 2, 4) == [8, 8, 8, 8], "a copy runs on over itself"
    assert copied([1, 2, 3], 2, 4) == copied([1], 1, 4) == copied([1, 2, 1, 2], 2, 0) == []
    for given in ((0, 2), (4, 0)):
        with pytest.raises(ValueError, match="allowed: at least 1"):
            Copier(None, *given)


def test_a_draft_of_the_whole_network_is_always_accepted(base, ids):
    # above the exit nothing is added: both read the same states
    llama = of_base(base.model)
    for name in ("o", "down"):
        llama.layers[3].maps[name].weight = torch.zeros_like(llama.layers[3].maps[name].weight)
    _, count = Drafter(llama, 3, 5).write(ids, 41)
    assert count.accepted == count.drafted == 4 * (6 * 5 + 3) and count.rounds == 7


def test_a_round_drafts_while_every_text_is_sure(base, ids):
    llama = sharper(base)
    always, half, never = (Drafter(llama, 2, 5, None, sure).write(ids, 41) for sure in SURE)
    assert torch.equal(always[0], half[0]) and torch.equal(always[0], never[0])
    assert never[1].drafted == 0 and never[1].rounds == 40, "one token a round"
    assert 0 < half[1].drafted < always[1].drafted, "some rounds stop early"
    alone = [Drafter(llama, 2, 5, None, SURE[1]).write(text[None], 41)[1] for text in ids]
    a_round = sum(c.drafted for c in alone) / sum(c.rounds for c in alone)
    assert a_round > half[1].drafted / half[1].rounds / len(ids), "alone, a text waits for nobody"


def test_a_chance_above_one_is_refused(llama):
    with pytest.raises(ValueError, match="sure is 1.5; allowed: a chance from 0 to 1"):
        Drafter(llama, 2, 4, None, 1.5)


def test_drafts_are_refused_where_the_layers_above_disagree(llama, ids):
    _, count = Drafter(llama, 1, 5).write(ids, 41)
    assert count.accepted < count.drafted and count.rounds > 7


def sharper(base):
    """A network whose next token is one of a few, so that 10,000 draws tell distributions apart."""
    llama = of_base(base.model)
    llama.norm = 2.5 * llama.norm
    return llama


@pytest.mark.parametrize("words, sure", [(None, 0.0), (60, 0.0), (None, SURE[1])])
def test_sampling_draws_from_the_network_itself(base, words, sure):
    llama = sharper(base)
    words = words and torch.arange(words)
    prompt = torch.tensor([[7, 50, 200]])
    with torch.inference_mode():
        first = Session(llama, Method(4)).logits(prompt)[0, -1].softmax(-1)
        follow = torch.cat([prompt.expand(280, 3), torch.arange(280)[:, None]], 1)
        then = Session(llama, Method(4)).logits(follow)[:, -1].softmax(-1)
        second = (first @ then).double().numpy()  # after a token that drafting had to guess
        third = np.zeros(280)
        for token in range(280):
            more = torch.cat([prompt.expand(280, 3), torch.full((280, 1), token)], 1)
            more = torch.cat([more, torch.arange(280)[:, None]], 1)
            last = Session(llama, Method(4)).logits(more)[:, -1].softmax(-1)
            third += (first[token] * (then[token] @ last)).double().numpy()
    draw = torch.Generator().manual_seed(5)
    drafter = Drafter(llama, 2, 3, words, sure)
    texts = 25 if sure else 250  # few, so that rounds differ in how sure their texts are
    runs = [drafter.write(prompt.expand(texts, 3), 3, draw) for _ in range(10_000 // texts)]
    found = torch.cat([tokens for tokens, _ in runs])
    assert len(found) == 10_000
    drafted = {count.drafted for _, count in runs}
    assert min(drafted) < max(drafted) if sure else min(drafted) > 0
    for place, expected in ((1, second), (2, third / third.sum())):
        seen = np.bincount(found[:, place].numpy(), minlength=280)
        assert chi_square(seen, expected) > 1e-3
    exit_alone = Session(of_base(base.model, (0, 1)), Method(4, kept=(0, 1)))
    wrong = exit_alone.logits(follow)[:, -1].softmax(-1)
    seen = np.bincount(found[:, 1].numpy(), minlength=280)
    assert chi_square(seen, (first @ wrong).double().numpy()) < 1e-6  # the test can fail


def test_sampling_with_copied_drafts_draws_from_the_network_itself(base):
    llama, draw = sharper(base), torch.Generator().manual_seed(5)
    prompt = torch.randperm(280, generator=draw)[None]  # whatever is drawn, something followed it
    with torch.inference_mode():
        first = Session(llama, Method(4)).logits(prompt)[0, -1].softmax(-1)
        follow = torch.cat([prompt.expand(280, -1), torch.arange(280)[:, None]], 1)
        then = Session(llama, Method(4)).logits(follow)[:, -1].softmax(-1)
    runs = [Copier(llama, 3, 1).write(prompt.expand(25, -1), 3, draw) for _ in range(400)]
    assert min(count.drafted for _, count in runs) > 0
    assert 0 < sum(count.accepted for _, count in runs) < sum(count.drafted for _, count in runs)
    seen = np.bincount(torch.cat([found for found, _ in runs])[:, 1].numpy(), minlength=280)
    assert chi_square(seen, (first @ then).double().numpy()) > 1e-3
    always = np.zeros(280)  # if every draft were kept
    always[prompt[0].roll(-1).numpy()] = first[prompt[0]].double().numpy()
    assert chi_square(seen, always) < 1e-6  # the test can fail


def chi_square(seen, expected):
    """p of counts under probabilities; rare values are put together."""
    common = expected * seen.sum() >= 5
    expected = expected / expected.sum()
    counts = np.append(seen[common], seen[~common].sum())
    chances = np.append(expected[common], expected[~common].sum())
    if chances[-1] * seen.sum() < 1:
        counts, chances = counts[:-1], chances[:-1]
    return stats.chisquare(counts, chances / chances.sum() * counts.sum()).pvalue


def test_transformers_accepts_the_same_exit_as_its_assistant(base, ids):
    model = plain_model(base.model, of_base(base.model))
    model.generation_config.eos_token_id = None
    plain = model.generate(ids[:1], max_new_tokens=20, do_sample=False)
    assisted = model.generate(ids[:1], max_new_tokens=20, do_sample=False, assistant_early_exit=2)
    ours = Drafter(of_base(base.model), 2, 4).write(ids[:1], 20)[0]
    assert torch.equal(plain, assisted) and torch.equal(plain[:, 9:], ours)


def test_transformers_draws_from_the_whole_distribution(base):
    model, prompt = plain_model(base.model, of_base(base.model)), torch.tensor([[7, 50, 200]])
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(5)
        expected = model(prompt).logits[0, -1].softmax(-1).double().numpy()
        many = model.generate(prompt.expand(10_000, 3), max_new_tokens=1, **DRAWN)
    seen = np.bincount(many[:, 3].numpy(), minlength=280)
    assert chi_square(seen, expected) > 1e-3
    assert chi_square(seen, expected**2) < 1e-6  # the test can fail


def test_frequent_tokens_are_counted():
    ids = torch.tensor([[5, 5, 5, 2, 2, 9]])
    assert frequent(ids, 2, 12).tolist() == [2, 5]
    assert len(frequent(ids, 100, 12)) == 12


def test_an_exit_that_is_none_is_refused(llama):
    for exit, tokens in ((0, 3), (4, 3), (2, 0)):
        with pytest.raises(ValueError, match="allowed"):
            Drafter(llama, exit, tokens)


def test_the_last_token_of_a_round_is_never_read_out_early(llama, ids, monkeypatch):
    reads, states = [], []
    read, embed = llama.read, llama.embed
    monkeypatch.setattr(type(llama), "read", lambda self, x: reads.append(x.shape[1]) or read(x))
    monkeypatch.setattr(type(llama), "embed", lambda self, x: states.append(x.shape[1]) or embed(x))
    _, count = Drafter(llama, 2, 4).write(ids, 20)
    drafts = count.drafted // len(ids)  # of one text
    assert sum(states) == ids.shape[1] + drafts + count.rounds, "one state a round is not drafted"
    # early: one a draft; late: one after the prompt, and each round all its states
    assert sum(reads) == drafts + 1 + drafts + count.rounds
    assert torch.equal(Drafter(llama, 2, 4).write(ids, 1)[0], Drafter(llama, 1, 1).write(ids, 1)[0])
    with pytest.raises(ValueError, match="0 tokens are to be written; allowed: at least 1"):
        Drafter(llama, 2, 4).write(ids, 0)


def test_variants_are_compared_seed_by_seed():
    rows = [("exit_6", seed, 10.0 + seed) for seed in (0, 1)] + [("assisted_6", 1, 5.5)]
    columns = ["variant", "seed", "speedup"]
    frame = pd.DataFrame(rows, columns=columns).assign(batch=1, run_id="r")
    change = against("exit_6", "assisted_6")
    assert change(Results("21", {"decoding": frame})) == pytest.approx([100.0])
    apart = frame[(frame["variant"] == "assisted_6") | (frame["seed"] == 0)]
    with pytest.raises(Absent, match="no seed"):
        change(Results("21", {"decoding": apart}))


def test_ways_of_a_network_share_a_run_and_a_readers_own_has_another(monkeypatch):
    parameters = E21.parameters.at("tiny")
    texts = E21.texts(parameters)
    ours = {task.key(): task for task in E21.tasks(parameters, texts)}
    timed = {Task(run_speculative, t.config.timed, t.seed, {}).key() for t in ours.values()}
    assert len(ours) == len(E21.variants) * parameters.seeds
    assert len(timed) == 2 * parameters.seeds, "exits; LayerSkip"
    mine = Decoding("mine", 0.2, tokens=3)
    monkeypatch.setattr(E21, "variants", {**E21.variants, "mine": mine})
    more = {task.key(): task for task in E21.tasks(parameters, texts)}
    assert set(ours) < set(more)
    for key in set(more) - set(ours):
        assert more[key].config.timed.ways == (mine.way(parameters.layers),)


def test_timing_that_was_interrupted_goes_on_with_the_next_prompts(tmp_path, monkeypatch):
    parameters = E21.parameters.at("tiny").changed(train_tokens=512, threads=2)
    tasks = E21.tasks(parameters, E21.texts(parameters), ["layerskip_6_words"])
    calls = []

    def interrupted(*arguments, **named):
        calls.append(torch.get_num_threads())
        if len(calls) == 3:
            raise KeyboardInterrupt
        return in_turns(*arguments, **named)

    monkeypatch.setattr(speculative_run, "in_turns", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_one(tasks[0], tmp_path, CPU)
    before = torch.get_num_threads()
    record = run_one(tasks[0], tmp_path, CPU)
    assert set(calls) == {2} and torch.get_num_threads() == before
    assert len(record["tables"]["decoding"]) == 8 and len(calls) == 3 + 6, "two are not timed again"


def test_notebook_21_at_the_tiny_size(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPTH_KEEP", str(tmp_path))
    monkeypatch.setattr(evaluation, "TARGETS", (0.5, 0.7, 0.9, 1.0))
    results = E21.run(E21.parameters.at("tiny").changed(train_tokens=512))
    frame = results("decoding")
    assert set(frame["variant"]) == set(E21.variants)
    # texts, batches, prompts; transformers drafts for one text only
    assert len(frame) == 12 * 8 + 4
    drawn = frame["variant"].str.endswith("_drawn")
    assert (frame.loc[~drawn, "equal"] == 1).all() and frame.loc[drawn, "equal"].isna().all()
    assert frame["repeated"].between(0, 1).all()
    assert frame["acceptance"].dropna().between(0, 1).all() and (frame["speedup"] > 0).all()
    for claim in E21.claims:
        assert np.isfinite(claim.measure(results)).all() and results.used, claim.id
    for draw in E21.figures.values():
        plt.close(draw(results))


@pytest.mark.parametrize(
    "wrong",
    [
        {"exit": -1},
        {"exit": 2, "tokens": 0},
        {"exit": 2, "sure": 7.0},
        {"exit": 0, "words": 100},
        {"exit": 2, "sure": 0.4, "engine": "transformers"},
    ],
)
def test_a_way_that_cannot_draft_is_refused_when_it_is_named(wrong):
    with pytest.raises(ValueError, match="allowed: "):
        Way(**wrong)


def test_a_way_without_layers_to_check_it_is_refused_before_its_network_is_trained():
    parameters = E21.parameters.at("tiny")
    for way in (Decoding("mine", 1.0), Decoding("theirs", 0.0, engine="transformers")):
        with pytest.raises(ValueError, match="no layers to check it; allowed: exits 1 to"):
            list(way.runs(parameters, E21.texts(parameters)[0]))
