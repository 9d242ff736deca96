"""Rules and thresholds, runs of the depth study that are killed, its claims and figures."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM

from lib.depth import (
    evaluation,
    exit_gate,
    forward,
    fronts,
    rules,
    saved,
    speed_run,
    tables,
    texts,
    work,
)
from lib.depth.adapters import frozen
from lib.depth.experiments.e20_adaptive_or_fixed_depth import E20
from lib.depth.flops import Costs
from lib.depth.generation import Policy, Session, Stop, write
from lib.depth.methods import Again, Gated, Method
from lib.depth.network import DepthRun, load_network, run_learning, run_tuning, settings
from lib.depth.reading import token_losses
from lib.depth.run import main_points, run_depth
from lib.depth.speed_run import run_depth_speed, score
from lib.figures import alternative
from lib.results.store import Results
from lib.runs import places
from lib.runs.key import run_key
from lib.runs.task import Place, Task, run_one
from lib.text.corpus import CorpusUnavailable
from lib.training import loop

COSTS = Costs(layer=10.0, keys=1.0, head=20.0, gate=0.1, layers=4)
TINY = E20.parameters.at("tiny").changed(train_tokens=1_024)
QUIET = Method(4)


@pytest.fixture(scope="module")
def text():
    return TINY.texts()[0]


@pytest.fixture(scope="module")
def table():
    torch.manual_seed(0)
    loss = torch.rand(4, 640).cumsum(0).flip(0)
    scores = {rule: torch.rand(3, 640) for rule in rules.RULES}
    return rules.Table(loss, scores, (1, 2, 3), 4, 64)


def config(text, method=QUIET, **changes):
    return DepthRun(TINY.base_name, text, method, settings(1e-2, 2), 2, **changes)


def network_key(task):
    return replace(task, function=run_learning).key()


def test_splits_share_no_window_and_are_spread(text):
    for parts in text.parts.values():
        rows = [tuple(row.tolist()) for part in parts.values() for row in part.ids]
        assert len(set(rows)) == len(rows)
    assert text.joined("train").tokens == 1_024 and text.name == "embedded+embedded-prose"
    assert TINY.changed(train_tokens=1_536).texts()[0].sha256 != text.sha256


def test_without_instructions_articles_alone_are_as_many_tokens(monkeypatch, capsys):
    def absent(*_):
        raise CorpusUnavailable("no folder, no hub")

    words = {part: f"{part} " * 900 for part in ("train", "valid", "test")}
    monkeypatch.setattr(texts, "load_instructions", absent)
    monkeypatch.setattr(texts.wikipedia, "splits", lambda: words)
    tokens = {"train": 512, "gate": 256, "valid": 256, "test": 256}
    found = texts.load(TINY.base_name, "auto", "", tokens)
    assert "wikipedia alone is used" in capsys.readouterr().out
    assert found.texts == ["wikipedia"]
    assert {split: found.joined(split).tokens for split in tokens} == tokens
    again = texts.load(TINY.base_name, "wikipedia", "", tokens)
    assert again.sha256 == found.sha256 and not capsys.readouterr().out
    with pytest.raises(CorpusUnavailable):
        texts.load(TINY.base_name, "hub", "", tokens)


@pytest.mark.parametrize("rule", rules.RULES)
@pytest.mark.parametrize("chosen", [(0,), (1, 2), (0, 1, 2)])
def test_thresholds_spend_what_they_may_and_no_step_less(table, rule, chosen):
    threshold = rules.calibrate(table, rule, chosen, COSTS, 0.95)

    def cost(least):
        at = rules.stops(table.scores[rule], chosen, least)
        return rules.token_costs(table, at, chosen, rule, COSTS).mean().item()

    assert cost(threshold) <= 0.95
    higher = table.scores[rule][list(chosen)]
    higher = higher[higher > threshold]
    if len(higher):
        assert cost(higher.min().item()) > 0.95
    assert rules.calibrate(table, rule, chosen, COSTS, 0.1) is None


def test_costs_count_every_read_out_and_the_keys_above(table):
    at = torch.tensor([0, 1, 3])
    head = rules.token_costs(table, at, (0, 1), "entropy", COSTS)
    # stops after 1 layer, after 2, nowhere: 1, 2 and 3 read-outs; keys of 3, 2 and 0 layers
    spent = torch.tensor([10 + 20 + 3, 20 + 40 + 2, 40 + 60], dtype=torch.float64)
    torch.testing.assert_close(head, spent / 60)
    gate = rules.token_costs(table, at, (0, 1), "gate", COSTS)
    spent = torch.tensor([10 + 20 + 3 + 0.1, 20 + 20 + 2 + 0.2, 40 + 20 + 0.2], dtype=torch.float64)
    torch.testing.assert_close(gate, spent / 60)


def test_recomputation_runs_what_a_later_token_needs():
    two = rules.Table(torch.zeros(4, 4), {}, (1, 2, 3), 4, 2)
    at = torch.tensor([0, 3, 3, 0])  # the first token is asked for by the second, the last by none
    spent = rules.recomputed_costs(two, at, (), "random", COSTS) * 60
    assert spent.tolist() == [40 + 20, 40 + 20, 40 + 20, 10 + 20]


def test_random_exits_are_an_expectation_and_the_best_exit_is_a_bound(table):
    at = rules.stops(table.scores["gate"], (0, 1, 2), 0.6)
    shares = rules.rates(table, at)
    assert sum(shares) == pytest.approx(1)
    shuffled = [rules.loss_at(table, at[torch.randperm(640)]).mean().item() for _ in range(300)]
    assert np.mean(shuffled) == pytest.approx(rules.random_loss(table, shares), abs=0.01)
    for target in (0.7, 0.9):
        best = rules.best_stops(table, COSTS, target)
        cost = rules.token_costs(table, best, (0, 1, 2), "oracle", COSTS).mean().item()
        assert cost <= target + 1e-9
        threshold = rules.calibrate(table, "gate", (0, 1, 2), COSTS, target)
        own = rules.loss_at(table, rules.stops(table.scores["gate"], (0, 1, 2), threshold))
        assert rules.loss_at(table, best).mean() < own.mean()
    assert rules.best_stops(table, COSTS, 0.4) is None  # one layer and the head cost more


def test_the_gate_finds_a_gain_that_the_state_tells():
    torch.manual_seed(0)
    states, weight = torch.randn(400, 16), torch.randn(16)
    gate = exit_gate.fit([states, states], [states @ weight + 2, torch.randn(400)])
    torch.testing.assert_close(gate.score(0, states), -(states @ weight + 2), atol=0.05, rtol=0.05)
    assert gate.score(1, states).std() < 0.3  # no signal: a small slope


def test_random_stops_stop_at_the_rates_of_their_model():
    row = {"rates": "0.2000 0.0000 0.3000 0.5000"}
    decide = evaluation.random_stops(Method(4, exits=(1, 2, 3)), row, 0)
    active = torch.ones(200, 200, dtype=torch.bool)
    left = active.clone()
    for layers, share in ((1, 0.2), (2, 0.0), (3, 0.3)):
        stops = decide(layers, [], active) & left
        assert stops.float().mean().item() == pytest.approx(share, abs=0.02)
        left &= ~stops


class Killed(RuntimeError):
    """What a test raises in the middle of a run."""


METHODS = {
    "plain": QUIET,
    "dropout": Method(4, exits=(1, 2), exit_loss="rising", layer_dropout=0.5),
    "gated": Method(4, gated=Gated(1, 3)),
    "random": Method(4, again=Again(2, 4, "random", 0.5)),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_killed_while_training_goes_on_with_the_same_bits(name, text, kept, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 1e9)
    task = Task(run_tuning, config(text, METHODS[name]), 0, {})
    whole = run_one(task, kept / "whole", torch.device("cpu"))
    plain, seen = work.loss_of, []

    def dying(*given):
        seen.append(0)
        if len(seen) == 3:
            raise Killed
        return plain(*given)

    monkeypatch.setattr(work, "loss_of", dying)
    with pytest.raises(Killed):
        run_one(task, kept / "killed", torch.device("cpu"))
    again = run_one(task, kept / "killed", torch.device("cpu"))
    assert len(seen) == 3 + 2  # four updates in all, two of them before the kill
    assert again["row"]["valid_loss"] == whole["row"]["valid_loss"]
    assert again["tables"]["curve"][-1]["train_loss"] == whole["tables"]["curve"][-1]["train_loss"]


def test_an_evaluation_goes_on_from_its_finished_parts(text, kept, monkeypatch):
    task = Task(run_depth, config(text, Method(4, gated=Gated(1, 3))), 0, {})
    whole = run_one(task, kept / "whole", torch.device("cpu"))
    plain, seen = evaluation.Evaluation._gated_at, []

    def dying(self, aim, threshold):
        seen.append(aim)
        if len(seen) == 2:
            raise Killed
        return plain(self, aim, threshold)

    monkeypatch.setattr(evaluation.Evaluation, "_gated_at", dying)
    with pytest.raises(Killed):
        run_one(task, kept / "killed", torch.device("cpu"))
    again = run_one(task, kept / "killed", torch.device("cpu"))
    assert seen.count(seen[0]) == 1 and again["tables"]["points"] == whole["tables"]["points"]


def test_an_evaluation_of_exits_scores_no_text_a_second_time(text, kept, monkeypatch):
    plain, seen = evaluation.Evaluation.table, []

    def counted(self, windows):
        seen.append(len(windows))
        return plain(self, windows)

    def dying(*given):
        raise Killed

    task = Task(run_depth, config(text, Method(4, exits=(1, 2))), 0, {})
    monkeypatch.setattr(evaluation.Evaluation, "table", counted)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(evaluation.Evaluation, "_propagated", dying)
        run_one(task, kept, torch.device("cpu"))
    run_one(task, kept, torch.device("cpu"))
    assert len(seen) == 3  # valid and two tests, before the kill


class Reads(TorchFunctionMode):
    """Counts the rows that the head reads: products as wide as the vocabulary."""

    def __init__(self, width):
        super().__init__()
        self.width, self.rows = width, 0

    def __torch_function__(self, function, types, given=(), own=None):
        found = function(*given, **(own or {}))
        product = function.__name__ in ("linear", "matmul", "__matmul__", "_linear_pointwise")
        if product and found.shape[-1] == self.width:
            self.rows += found.numel() // self.width
        return found


@pytest.mark.parametrize("rule", ["confidence", "entropy", "margin", "similarity"])
def test_a_window_that_is_timed_reads_the_head_as_often_as_its_cost_counts(text, rule):
    method = Method(4, exits=(1, 2))
    llama = frozen(TINY.base_name.load().model, method)
    ids = text.joined("valid").inputs[:2]
    threshold = {"confidence": 0.04, "entropy": -5.0, "margin": 0.004, "similarity": 0.45}[rule]
    policy = Policy(rule, threshold, (1, 2))
    with torch.inference_mode():
        stop = Stop(llama, method, policy)
        states, depth = forward.with_exits(llama, ids, (1, 2), stop)
        counts = [int((depth == layers).sum()) for layers in (1, 2, 4)]
    assert all(counts)
    reads = (1, 2, 3) if rule in rules.HEAD_RULES else (1, 1, 1)
    with Reads(len(llama.head)) as head:
        logits = score(Session(llama, method, policy), ids)
    assert head.rows == sum(n * r for n, r in zip(counts, reads, strict=True))
    torch.testing.assert_close(logits, llama.logits(states), atol=1e-5, rtol=1e-5)


def test_of_writing_the_new_tokens_are_timed_and_not_their_prompt(text, kept, monkeypatch):
    task = Task(run_depth_speed, speed_run.DepthSpeed(config(text), written=5), 0, {})
    plain, fed = Session.feed, []

    def feed(self, ids):
        fed.append(ids.shape[1])
        return plain(self, ids)

    def once(jobs, rounds, device):
        fed.clear()
        for job in (*jobs, *jobs):
            job()
        return [1.0] * len(jobs)

    monkeypatch.setattr(Session, "feed", feed)
    monkeypatch.setattr(speed_run, "in_turns", once)
    run_one(task, kept, torch.device("cpu"))
    assert fed == [1] * (2 * 2 * 5)  # base and network, twice


def test_what_is_off_is_not_in_the_key(text):
    plain = run_key(run_depth, config(text), 0)
    assert plain == run_key(run_depth, config(text, Method(4, layer_dropout=0.0)), 0)
    assert plain != run_key(run_depth, config(text, Method(4, layer_dropout=0.1)), 0)


def test_a_kept_network_is_the_one_that_was_measured(text, kept):
    task = Task(run_depth, config(text, Method(4, exits=(1, 2))), 0, {})
    record = run_one(task, kept, torch.device("cpu"))
    llama, gate = load_network(task.config, Place(kept / network_key(task)))
    valid = text.joined("valid")
    with torch.inference_mode():
        loss = token_losses(llama, forward.through(llama, valid.inputs)[-1], valid.labels).mean()
    assert record["row"]["val_ppl"] == pytest.approx(loss.exp().item(), rel=1e-5)
    assert gate.weight.shape == (2, 32) and bool(gate.weight.abs().sum() > 0)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPTH_KEEP", str(tmp_path_factory.mktemp("depth")))
        patch.setattr(evaluation, "TARGETS", (0.5, 0.7, 0.9, 1.0))
        yield E20.run(TINY)


@pytest.fixture
def trained(results):
    """The runs of ``results`` lie where they were made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPTH_KEEP", str(results.folder.parents[2]))
        yield


TIMED = [name for name, variant in E20.variants.items() if variant.timed]


def test_every_kept_network_comes_back_from_its_folder_at_its_cost(trained, text, tmp_path, capsys):
    folders = saved.save(E20, TINY, [text], TIMED, folder=tmp_path)
    assert list(folders) == TIMED and "no network" not in capsys.readouterr().out
    table = saved.written(folders, "The moon", tokens=4)
    assert table["writes"].str.startswith("The moon").all()
    for task in E20.tasks(TINY, [text], TIMED):
        if task.function is not run_depth:
            continue
        there = Place(places.runs_folder() / task.key())
        llama, gate = load_network(task.config, Place(there.folder.parent / network_key(task)))
        point = saved.point_at(there.record()["tables"]["points"], 0.7)
        session = Session(llama, task.config.method, Policy.at(point, gate))
        ids = torch.tensor([TINY.base_name.load().tokenizer("The moon")["input_ids"]])
        theirs = AutoModelForCausalLM.from_pretrained(folders[task.labels["variant"]])
        assert torch.equal(theirs.generate(ids, max_new_tokens=4)[:, -4:], write(session, ids, 4))
    assert table.loc["exits", "rule"] and table.loc["exits", "exits"]


def test_a_network_that_is_not_here_is_named(text, kept, monkeypatch, capsys):
    monkeypatch.setenv("DEPTH_KEEP", str(kept))
    assert saved.save(E20, TINY, [text], ["adapted"]) == {}
    assert "no network is kept on this machine of: adapted" in capsys.readouterr().out


def test_a_network_without_a_point_to_run_is_a_sentence():
    with pytest.raises(ValueError, match="no point of valid"):
        saved.point_at([], 0.7)


def test_the_point_for_a_cost_is_the_best_of_the_nearest():
    def point(rule, target, loss, split="valid", keys="propagated"):
        own = {"rule": rule, "target": target, "loss": loss, "split": split, "keys": keys}
        return own | {"flops": 1.0}

    points = [point("gate", 0.5, 1.0), point("gate", 0.7, 2.0), point("entropy", 0.7, 1.9)]
    points += [point("random", 0.7, 0.1), point("oracle", 0.7, 0.1, keys="free")]
    points += [point("entropy", 0.7, 0.1, split="test")]
    assert saved.point_at(points, 0.72)["rule"] == "entropy"
    assert saved.point_at([point("fixed", None, 3.0, keys="none")], 0.7)["loss"] == 3.0


def test_exits_for_all_tokens_cost_less_and_the_last_is_the_network(results):
    frame = fronts.points(results, "exits", rule="static", split="valid")
    assert frame["flops"].is_monotonic_increasing and frame["flops"].iloc[-1] == 1
    row = results()[results()["variant"] == "exits"].iloc[0]
    assert np.log(row["val_ppl"]) == pytest.approx(frame["loss"].iloc[-1])
    assert set(results("points")["text"]) == {"both", "embedded", "embedded-prose"}


def test_points_keep_to_the_costs_they_were_chosen_for(results):
    frame = results("points")
    own = frame[(frame["split"] == "valid") & (frame["keys"] == "free")]
    assert len(own) > 30 and (own["flops"] <= own["target"] + 1e-6).all()
    same = ["variant", "rule", "target", "text", "split"]
    wide = frame[frame["keys"].isin(("free", "recomputed"))].pivot_table(
        index=same, columns="keys", values=["loss", "flops"], aggfunc="first"
    )
    assert (wide["loss"]["free"] == wide["loss"]["recomputed"]).all()
    oracle = own[own["rule"] == "oracle"].set_index(["variant", "target"])["loss"]
    others = own[own["rule"] != "oracle"].groupby(["variant", "target"])["loss"].min()
    assert (oracle[others.index] <= others + 1e-6).all()


def test_an_open_gate_moves_all_and_propagated_losses_are_near_the_exact_ones(results):
    frame = results("points")
    gated = frame[(frame["variant"] == "gated") & (frame["target"] == 1.0)]
    assert (gated["rate"] == 1).all() and gated["threshold"].isna().all()
    ran = frame[frame["keys"] == "propagated"]
    assert set(ran.loc[ran["variant"] == "exits", "rule"]) >= {"random"}
    deep = frame[(frame["keys"] == "free")].set_index(
        ["variant", "rule", "target", "text", "split"]
    )["loss"]
    pairs = ran[ran["rule"].isin(rules.RULES)]
    near = [deep[(r.variant, r.rule, r.target, r.text, r.split)] for r in pairs.itertuples()]
    assert np.abs(pairs["loss"] - near).max() < 0.5 and not np.array_equal(pairs["loss"], near)


def test_every_claim_is_measured(results):
    ids = [claim.id for claim in E20.claims]
    assert len(ids) == len(set(ids)) and all(claim.kind == "own" for claim in E20.claims)
    for claim in E20.claims:
        try:
            values = claim.measure(results)
        except fronts.Absent as missing:
            # on the tiny base one layer and a read-out may cost more than half
            assert "0.5" in str(missing) or "target" in str(missing), claim.id
            continue
        assert values.shape == (1,) and np.isfinite(values).all(), claim.id
        assert results.used, claim.id


def test_speed_is_that_of_the_points_that_were_run(results):
    speed = results("speed")
    assert set(speed["variant"]) == {n for n, v in E20.variants.items() if v.timed}
    assert (speed[["prefill_ms", "generate_ms", "prefill_relative"]] > 0).all().all()
    exits = fronts.points(results, "exits", keys="propagated", split="valid")
    exits = exits[exits["rule"] != "random"]
    own = speed[speed["variant"] == "exits"]
    assert sorted(own["flops"]) == pytest.approx(sorted(exits["flops"]))


def test_figures_are_drawn(results):
    for draw in E20.figures.values():
        figure = draw(results)
        assert any(panel.lines for panel in figure.axes)
        assert "nan" not in alternative.text(figure).lower()
        plt.close(figure)


def test_a_network_of_fewer_seeds_says_so(results):
    more = {
        name: pd.concat([frame, frame[frame["variant"] != "layerskip"].assign(seed=1)])
        for name, frame in results.frames.items()
    }
    figure = E20.figures["exits"](Results(results.slug, more))
    names = [line.get_label() for line in figure.axes[0].lines]
    assert "LayerSkip, one exit for all (1 seed)" in names
    assert "Losses at every exit, one exit for all" in names
    assert figure.get_suptitle().endswith("2 seeds")
    plt.close(figure)


def test_lines_go_through_their_points():
    costs, losses = np.array([0.9, 0.5, 0.7]), np.array([1.0, 3.0, 1.5])
    order = np.argsort(costs)
    costs, losses = costs[order], losses[order]
    assert fronts.between(costs, losses, 0.7) == pytest.approx(1.5)
    assert fronts.between(costs, losses, 0.6) == pytest.approx(2.25)
    assert fronts.between(costs, losses, 1.0) == pytest.approx(0.75)
    assert fronts.between(np.array([1.0]), np.array([2.0]), 0.3) == 2.0


def test_a_seed_counts_if_all_variants_of_a_curve_have_it():
    def points(variant, seeds, cost):
        rows = [(variant, "alpaca", "test", seed, cost, 3.0 + seed) for seed in seeds]
        return pd.DataFrame(rows, columns=["variant", "text", "split", "seed", "flops", "loss"])

    base, exits = points("base", [0], 1.0), points("exits", [0, 1, 2], 0.5)
    assert list(fronts.at(pd.concat([exits, base]), 0.5).index) == [0, 1, 2]
    gated = points("gated", [0, 1], 0.7)
    assert list(fronts.at(pd.concat([exits, gated, base]), 0.5).index) == [0, 1]
    assert list(fronts.at(base, 0.5).index) == [0]
    # one seed of what is random does not stand for the others
    assert list(fronts.at(pd.concat([exits, points("layerskip", [1], 0.7)]), 0.5).index) == [1]
    assert set(fronts.ONCE) == {name for name, variant in E20.variants.items() if variant.once}


def test_the_better_cut_is_chosen_on_valid_and_not_on_test(results):
    chosen = fronts.fixed(results)
    cheapest = {"last_removed_50", "middle_removed_50"} & set(chosen["variant"])
    losses = {}
    for name in ("last_removed_50", "middle_removed_50"):
        own = fronts.points(results, name, split="valid")
        losses[name] = own["loss"].mean(), own["flops"].mean()
    assert cheapest == {min(losses, key=losses.get)}, "of equal cost the better one begins the line"
    swapped = replace(results, frames=dict(results.frames))
    frame = results("points").copy()
    frame.loc[frame["split"] == "test", "loss"] *= -1
    swapped.frames["points"] = frame
    assert list(fronts.fixed(swapped)["variant"]) == list(chosen["variant"])
    assert list(fronts.adaptive(swapped)["rule"]) == list(fronts.adaptive(results)["rule"])


def test_a_curve_is_the_lower_hull_on_valid_and_tests_follow():
    def point(name: str, cost: float, valid: float, test: float) -> pd.DataFrame:
        rows = [(name, "both", "valid", s, cost, valid + s) for s in (0, 2)]
        rows += [(name, "alpaca", "test", s, cost, test + s) for s in (0, 2)]
        return pd.DataFrame(rows, columns=["variant", "text", "split", "seed", "flops", "loss"])

    parts = [point("a", 0.4, 6, 6), point("b", 0.6, 5.5, 1), point("c", 0.8, 3, 3),
             point("d", 1.0, 2.5, 2.5), point("e", 0.9, 2.9, 0)]  # fmt: skip
    curve = fronts.lower(parts)
    # b lies above the line from a to c, e above that from c to d; what tests say is not asked
    assert list(curve["variant"].unique()) == ["a", "c", "d"]
    assert fronts.at(curve, 0.6).tolist() == pytest.approx([4.5, 6.5])
    assert list(fronts.lower(parts[:1])["variant"].unique()) == ["a"]
    dear = fronts.lower([*parts, point("f", 1.0, 4, 0), point("g", 1.1, 2.5, 0)])
    assert list(dear["variant"].unique()) == ["a", "c", "d"], "dearer and no better"
    missed = point("a", 0.4, 6, 6).assign(target=0.4), point("h", 0.41, 4, 4).assign(target=0.4)
    curve = fronts.lower([*missed, point("d", 1.0, 2.5, 2.5).assign(target=np.nan)])
    assert list(curve["variant"].unique()) == ["h", "d"], "both were calibrated to one cost"


def test_whole_texts_mix_read_outs_without_a_rule(results):
    curve = fronts.whole_texts("exits")(results)
    assert set(curve["rule"]) == {"static"} and set(curve["variant"]) == {"exits"}
    shallow = curve[curve["split"] == "valid"].sort_values("flops").iloc[0]
    assert shallow["depth"] == min(fronts.points(results, "exits", rule="static")["depth"])


def test_main_points_are_one_a_split(results):
    for name, variant in E20.variants.items():
        rows = fronts.points(results, name).to_dict("records")
        own = main_points(variant.make(4), rows)
        assert [r["split"] for r in own] == ["valid", "test", "test"], name


def test_pieces_of_a_killed_write_are_whole(tmp_path):
    pieces = evaluation.Pieces(tmp_path / "checkpoint-points.json")
    assert pieces("a", lambda: [{"x": 1.5, "y": None}]) == [{"x": 1.5, "y": None}]
    again = evaluation.Pieces(tmp_path / "checkpoint-points.json")
    assert again("a", lambda: 1 / 0) == [{"x": 1.5, "y": None}]
    (tmp_path / "checkpoint-points.json").write_text("{}")
    made = evaluation.Pieces(tmp_path / "checkpoint-points.json")("a", lambda: "anew")
    assert made == "anew" and (tmp_path / "checkpoint-points.json.damaged-1").is_file()


def test_every_way_to_choose_is_drawn(results):
    figure = E20.figures["front"](results)
    drawn = [line.get_label() for line in figure.axes[0].lines if len(line.get_xdata())]
    there = {"fixed depth, best on valid", "base, untouched", "base, adapted", "gated middle"}
    assert there <= set(drawn)
    full = next(line for line in figure.axes[0].lines if "at random" in line.get_label())
    assert max(full.get_xdata()) == pytest.approx(1.0)  # the network at full depth ends the line
    plt.close(figure)


def test_all_rules_that_seeds_chose_are_named():
    rows = [
        ("exits", "valid", seed, rule, 0.7, cost, 3.0)
        for seed, rule, cost in ((0, "entropy", 0.7), (1, "margin", 0.71), (2, "entropy", 0.69))
    ]
    columns = ["variant", "split", "seed", "rule", "target", "flops", "loss"]
    frame = pd.DataFrame(rows, columns=columns)
    main = pd.DataFrame({"variant": ["exits"], "label": ["Exits"]})
    given = Results("20", {"": main})
    assert tables._chosen(given, frame, 0.7) == "Exits, entropy or margin"
    ends = [("exits", "valid", s, "static", None, c, 3.0, d) for s in (0, 1)
            for c, d in ((0.4, 6), (1.0, 30))]  # fmt: skip
    static = pd.DataFrame(ends, columns=[*columns, "depth"])
    both = pd.concat([frame, static])
    assert tables._chosen(given, both, 0.7) == "Exits, entropy or margin"
    assert tables._chosen(given, both, 0.5) == "Exits, layer 6 and entropy or margin"
    assert tables._chosen(given, static, 0.2) == "Exits, layer 6 and layer 30"
