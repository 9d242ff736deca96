"""How figures look: ticks that can be read, colours that stay, legends clear of the data."""

import dataclasses
import xml.etree.ElementTree as ElementTree

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from small_experiment import SmallVariant, experiment

from lib import registry
from lib.context import figures as contexts
from lib.figures import alternative, forest, gallery, methods, rows, style, training
from lib.results.claims import REPLICATED, REVERSED, UNDECIDED
from lib.results.schema import DIVERGED
from lib.results.store import Results
from lib.runs.places import ROOT

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def look():
    with plt.rc_context():
        style.use()
        yield
        plt.close("all")


def curve(variants: dict[str, float], epochs: int = 6, seeds: int = 2) -> pd.DataFrame:
    """Validation perplexities that fall towards a value of each variant."""
    return pd.DataFrame(
        {"variant": name, "seed": seed, "epoch": epoch, "val_ppl": value + 9 / epoch + seed}
        for name, value in variants.items()
        for seed in range(seeds)
        for epoch in range(1, epochs + 1)
    )


@pytest.mark.parametrize("low", (0.013, 0.9, 7.0, 11.0, 230.0))
@pytest.mark.parametrize("span", (1.2, 3.9, 4.1, 9.0, 11.0, 39.0, 41.0, 900.0, 2e5))
def test_a_logarithmic_axis_has_a_few_round_ticks(low, span):
    ticks = style.PlainLog().tick_values(low, low * span)
    seen = ticks[(ticks >= low) & (ticks <= low * span)]
    assert 3 <= len(seen) <= 11
    digits = seen / 10 ** np.floor(np.log10(seen) + 1e-9)
    assert np.allclose(digits * 100, np.round(digits * 100))  # at most three digits


def test_ticks_are_written_as_plain_numbers():
    figure, axes = plt.subplots()
    axes.plot([1, 2], [20_000, 1_000_000])
    style.plain_log(axes, "y")
    figure.canvas.draw()
    written = [label.get_text() for label in axes.get_yticklabels()]
    assert "100,000" in written and not any("10^" in text or "e+" in text for text in written)


def test_a_method_keeps_its_colour_whatever_stands_beside_it():
    for beside in (["IRT"], ["LPT sum", "HRM"], ["something new", "Looped twice, 1 loss"]):
        for given in (["Standard", *beside], [*beside, "Standard, 2 layers"]):
            name = next(name for name in given if name.startswith("Standard"))
            assert methods.colours(given)[name] == methods.looks(given)[name]["color"]
            assert methods.colours(given)[name] == methods.row_colours(given)[name] == methods.BLUE


def test_variants_of_a_figure_can_be_told_apart():
    names = ["Standard", "Standard, 2 layers", "IRT", "LPT sum", "LPT weighted", "one", "another"]
    assert len(set(methods.colours(names).values())) == len(names)
    assert len({tuple(look.items()) for look in methods.looks(names).values()}) == len(names)
    with pytest.raises(ValueError, match="split the figure"):
        methods.colours([str(number) for number in range(9)])
    with pytest.raises(ValueError, match="split the figure"):
        methods.looks([f"variant {number}" for number in range(9)])


def test_the_legend_does_not_lie_over_the_data_and_says_what_the_band_is():
    figure = training.curves(curve({"Standard": 10, "IRT": 12}), ["Standard", "IRT"], "title")
    figure.canvas.draw()
    (legend,) = figure.legends
    assert not legend.get_window_extent().overlaps(figure.axes[0].get_window_extent())
    assert "lowest to highest seed" in legend.get_title().get_text()


def test_what_lies_above_a_cut_is_named_and_the_axis_starts_at_the_data():
    frame = curve({"Standard": 10, "HRM": 90})
    figure = training.curves(frame, ["Standard", "HRM"], "title", highest=60)
    (axes,), (legend,) = figure.axes, figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["Standard", "HRM (above the cut)"]
    assert axes.get_yscale() == "log" and axes.get_ylim()[1] == 60
    uncut = training.curves(frame, ["Standard", "HRM"], "title", highest=5)
    names = [text.get_text() for text in uncut.legends[0].get_texts()]
    assert names == ["Standard", "HRM"] and uncut.axes[0].get_ylim()[1] > frame["val_ppl"].max()
    assert 0.9 * frame["val_ppl"].min() < axes.get_ylim()[0] < frame["val_ppl"].min()


def test_an_axis_that_cuts_nothing_says_nothing_of_a_cut_and_never_begins_below_the_data():
    for highest, names in ((None, ["validation perplexity"]), (90, ["validation perplexity"]),
                           (15, ["validation perplexity", "(cut at 15)"])):  # fmt: skip
        frame = curve({"Standard": 10, "IRT": 12})
        (axes,) = training.curves(frame, ["Standard", "IRT"], "title", highest=highest).axes
        assert axes.get_ylabel().split("\n") == names
        assert axes.get_ylim()[0] > 9


def test_a_row_without_values_is_an_error():
    with pytest.raises(KeyError, match="'IRT' has no test_ppl"):
        rows.own_values(pd.DataFrame({"variant": ["HRM"], "test_ppl": [1.0]}), "IRT", "test_ppl")


def test_committed_figures_are_small_and_no_wider_than_a_page():
    found = sorted((ROOT / "figures").glob("*.png"))
    assert found
    for path in found:
        height, width = plt.imread(path).shape[:2]
        assert path.stat().st_size < 200_000, path.name
        assert width <= 10 * style.SETTINGS["savefig.dpi"] and height <= width, path.name


COMMITTED = sorted((ROOT / "figures").glob("*.png"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_figure_says_what_it_shows_and_has_an_svg(path):
    words = alternative.of(path)
    assert len(words) >= 40 and "Plotted: " in words and "nan" not in words.lower()
    drawing = path.with_suffix(".svg")
    assert drawing.stat().st_size < 300_000
    text = drawing.read_text(encoding="utf-8")
    assert "<dc:date>" not in text and "Matplotlib v" not in text
    tree = ElementTree.fromstring(text)
    said = [tag.text for tag in tree.iter() if tag.tag.endswith("description")]
    assert said == [words] and any(tag.tag.endswith("}text") for tag in tree.iter())


def test_no_figure_is_left_over():
    known = {f"{slug}_{what}" for slug in registry.module_names()
             for what in registry.experiment(slug).figures}  # fmt: skip
    drawn = {path.stem for path in COMMITTED}
    assert drawn - known == {"claims"}
    assert {path.stem for path in (ROOT / "figures").glob("*.svg")} == drawn


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        figure = training.curves(curve({"Standard": 10, "IRT": 12}), ["Standard", "IRT"], "title")
        style.save(figure, tmp_path / f"{name}.png")
    for ending in (".png", ".svg"):
        first, second = ((tmp_path / name).with_suffix(ending).read_bytes() for name in "ab")
        assert first == second


def test_a_picture_is_small_and_loses_no_colour(tmp_path):
    figure = training.curves(curve({"Standard": 10, "IRT": 12}), ["Standard", "IRT"], "title")
    style.save(figure, tmp_path / "small.png")
    figure.savefig(tmp_path / "full.png", dpi=150, bbox_inches="tight")
    assert (tmp_path / "small.png").stat().st_size < 0.5 * (tmp_path / "full.png").stat().st_size
    assert alternative.of(tmp_path / "small.png") == alternative.text(figure)
    small, full = (plt.imread(tmp_path / f"{name}.png")[..., :3] for name in ("small", "full"))
    assert small.shape == full.shape and np.abs(small - full).mean() < 0.002


def test_many_points_are_a_picture_inside_the_svg(tmp_path):
    figure, axes = plt.subplots()
    axes.scatter(*np.random.default_rng(0).random((2, 20_000)), label="points")
    style.save(figure, tmp_path / "dense.png")
    assert (tmp_path / "dense.svg").stat().st_size < 300_000


def test_the_words_of_lines_are_their_ends():
    few = training.curves(curve({"Standard": 10, "IRT": 12}), ["Standard", "IRT"], "Training")
    assert alternative.text(few) == (
        "Training. Plotted: validation perplexity against epoch; a line or mark each: “Standard”, "
        "“IRT”. “Standard” goes from 19.5 to 12; “IRT” goes from 21.5 to 14."
    )
    names = ["Standard", "IRT", "LPT", "HRM"]
    many = training.curves(curve(dict(zip(names, (9, 8, 11, 10), strict=True))), names, "Training")
    assert alternative.text(many).endswith("“IRT” ends lowest, at 10; “LPT” ends highest, at 13.")


def test_the_words_of_rows_are_their_means():
    figure, axes = plt.subplots()
    for y, values in enumerate(([3.0, 5.0], [1.0, 2.0])):
        rows.draw(axes, y, np.array(values), "black")
    rows.draw_reported(axes, 0, 99.0)
    rows.name_rows(axes, ["first", "second, of two"])
    axes.set_xlabel("test perplexity")
    assert alternative.text(figure) == (
        "Figure. Plotted: test perplexity; a row each: “first”, “second, of two”. “second, of two” "
        "is lowest, at 1.5; “first” is highest, at 4."
    )


def test_a_figure_can_have_words_of_its_own_and_must_have_data():
    figure, axes = plt.subplots()
    with pytest.raises(ValueError, match="without data"):
        alternative.text(figure)
    axes.plot([0, 1, 2], [0, 10, 40], label="gate")
    alternative.say(figure, alternative.at(figure, 1.5, "three halves"))
    assert alternative.text(figure).endswith("At three halves: gate 25.")


def test_the_forest_is_told_by_its_counts():
    table = pd.DataFrame(
        {
            "own_share": [1.0, 0.1, np.nan],
            "own_verdict": [REPLICATED, UNDECIDED, "not measurable here"],
            "real_share": [np.nan, -1.0, np.nan],
            "real_verdict": [None, REVERSED, None],
        }
    )
    assert forest.spoken(table) == (
        "Claims drawn on the report's text or its stand-in: "
        "2, replicated 1, reversed 0, undecided 1. "
        "Claims drawn on wikipedia: 1, replicated 0, reversed 1, undecided 0."
    )
    assert forest._finding(table, "wikipedia") == (
        "Of the claims drawn, these are replicated: "
        "1 of 2 on the report's text or its stand-in, 0 of 1 on wikipedia"
    )
    one_text = table.drop(columns=["real_share", "real_verdict"])
    assert forest.counted(one_text, "real") == dict.fromkeys(forest.LOOKS, 0)


def test_a_claim_that_has_only_another_text_is_drawn_there():
    def row(corpus, size, ours):
        content = {"id": "x", "kind": "transfer", "statement": "S", "source": "R3, section 1"}
        content |= {"corpus": corpus, "size": size, "expect": "below", "threshold": 0.0}
        return content | {"ours": ours, "ci_low": ours, "ci_high": ours, "verdict": REPLICATED}

    claims = pd.DataFrame(
        [
            row("wikipedia", "tenth", -1.0),
            row("wikipedia", "full", -5.0),
            row("other", "full", -9.0),
        ]
    )
    (drawn,) = forest.rows(claims, {"x": -10.0}).to_dict("records")
    assert drawn["real_share"] == 0.5 and "own_share" not in drawn
    assert forest.rows(claims, {}).empty


def test_a_notebook_gets_the_picture_with_its_words(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append((*a, k)))
    figure = training.curves(curve({"Standard": 10}), ["Standard"], "Training")
    words = alternative.text(figure)
    gallery.present(figure)
    (bundle, given), (folded, _) = shown
    assert bundle["image/png"].startswith("iVBOR") and bundle["text/plain"] == words
    assert given["metadata"] == {"image/png": {"alt": words}} and given["raw"]
    assert "<details>" in folded.data and not plt.fignum_exists(figure.number)


def test_a_figure_of_outstanding_runs_is_a_sentence(kept, capsys, monkeypatch):
    presented = []
    monkeypatch.setattr(gallery, "present", presented.append)
    e = experiment()
    e.figures = {
        "curve": lambda results: training.curves(results.named("curve"), ["Base"], "Training"),
        "empty": lambda results: plt.figure().add_subplot().figure,
        "speed": lambda results: results("speed"),
    }
    results = e.run(e.parameters(seeds=1))
    with pytest.raises(FileNotFoundError, match="98_small_speed is not there"):
        gallery.show(e, "speed", results)
    partial = dataclasses.replace(results, outstanding=2)
    for what in ("speed", "empty"):
        gallery.show(e, what, partial)
        said = f"figure {what}: not drawn, none of its runs has ended"
        assert said in capsys.readouterr().out and not presented
    gallery.show(e, "curve", partial)
    assert len(presented) == 1
    with pytest.raises(KeyError):
        gallery.show(e, "curves", partial)


def test_committed_rows_are_outstanding_where_variants_have_unequally_many_seeds():
    e = experiment()
    rows = [("base", "full", s, 65) for s in range(5)] + [
        ("worse", "full", s, 65) for s in range(5)
    ]
    rows += [(name, "small", s, 65) for name in e.own for s in range(3)]
    rows += [("bigram", size, 0, None) for size in ("full", "small")]
    main = pd.DataFrame(rows, columns=["variant", "size", "seed", "params"]).assign(corpus="x")
    assert not gallery.waiting(e, Results("98_small", {"": main}))
    assert gallery.waiting(e, Results("98_small", {"": main[1:]}))
    assert gallery.waiting(e, Results("98_small", {"": main[main["variant"] != "worse"]}))


def test_diverged_runs_are_left_out_of_figures_which_is_said(kept, capsys, monkeypatch):
    presented, seen = [], []
    monkeypatch.setattr(gallery, "present", presented.append)
    e = experiment(base=SmallVariant(1.0, "Base"), lost=SmallVariant(3.0, "Lost", "lost"))

    def curve(results):
        seen.append({name: set(frame["variant"]) for name, frame in results.frames.items()})
        return training.curves(results.named("curve"), ["Base"], "Training")

    e.figures = {"curve": curve, "lost": lambda results: results()["none"]}
    results = e.run(e.parameters())
    assert (results()["status"] == DIVERGED).sum() == 3
    capsys.readouterr()
    gallery.show(e, "curve", results)
    assert "not drawn: 3 diverged of Lost" in capsys.readouterr().out and len(presented) == 1
    assert seen == [dict.fromkeys(results.frames, {"base"})]
    gallery.show(e, "lost", results)
    assert "figure lost: cannot be drawn, 3 diverged of Lost" in capsys.readouterr().out
    sound = results.sound()
    assert sound.sound() is sound and "lost" not in set(sound()["variant"])
    with pytest.raises(KeyError):
        gallery.show(e, "lost", sound)


def test_a_ninth_series_is_drawn_too():
    names = [f"{model} {n}" for model in ("LPT", "HRM", "IRT") for n in range(3)]
    own = pd.DataFrame(
        [(name, seed, seen, 0.5) for name in names for seed in (0, 1) for seen in (0, 1)],
        columns=["variant", "seed", "tokens_seen", "cos"],
    )
    labels = contexts.forgetting(own, names, "title").axes[0].get_legend_handles_labels()[1]
    assert set(names) <= set(labels)
