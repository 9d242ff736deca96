"""Figures of methods that are tuned alike, beside what their reports trained them with."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from lib.character.figures.common import metric
from lib.figures import alternative, methods, rows, style
from lib.figures.panels import counted, grid_of_panels, heading
from lib.results.claims import change
from lib.results.statistics import Interval, percent_interval
from lib.results.store import Absent, Results

SHORT = 0.16  # how far a row's two bars lie apart


def _colour(label: str) -> str:
    """The colour of a method; grey stands for what is not tuned."""
    found = methods.method_of(label) or methods.BLUE
    return methods.BLACK if found == methods.GREY else found


def _change(results: Results, treatment: str, baseline: str) -> Interval | None:
    try:
        return percent_interval(change(treatment, baseline, metric(results.corpus))(results))
    except Absent:
        return None


def pairs(compared: tuple[tuple[str, str], ...]):
    """Draw what each method gains over its baseline, as reported and tuned, a panel a text on
    which any was run."""

    def draw(results: Results) -> Figure:
        every = {text: _both(results.on(text), compared) for text in results.corpora}
        found = {text: own for text, own in every.items() if own}
        names = list(dict.fromkeys(name for own in found.values() for name in own))
        if not names:
            raise Absent("not drawn, none of these methods has been run")
        height = 0.62 * len(names) + 1.5
        shown = results()[results()["corpus"].isin(found)]
        figure, axes = grid_of_panels(counted(shown), "", height, sharey=True)
        for panel, own in zip(axes, found.values(), strict=True):
            for name, both in own.items():
                _rows(panel, names.index(name), both, _colour(name.split("\n")[0]))
            rows.name_rows(panel, names)
            panel.axvline(0, color=style.QUIET, linewidth=1, linestyle=":")
            panel.set_xlabel("% change of test perplexity\n(below 0: the first named is better)")
        fates = {text: said for text, own in found.items() if (said := fate(list(own.values())))}
        heading(figure, "What tuning makes of the differences seen as reported", fates)
        style.legend(figure, _key(), columns=2)
        told = (
            f"{' '.join(name.split())} on {text}: {_said(*both)}"
            for text, own in found.items()
            for name, both in own.items()
        )
        alternative.say(figure, f"Change in %: {'; '.join(told)}.")
        return figure

    return draw


def _both(
    results: Results, compared: tuple[tuple[str, str], ...]
) -> dict[str, tuple[Interval | None, Interval | None]]:
    """Change as reported and tuned on one text by what is compared, where there is either."""
    labels, found = results.labels, {}
    for treatment, baseline in compared:
        plain = _change(results, treatment, baseline)
        tuned = _change(results, f"{treatment}_tuned", f"{baseline}_tuned")
        if plain or tuned:
            found[f"{labels[treatment]}\nagainst {labels[baseline]}"] = (plain, tuned)
    return found


def _said(plain: Interval | None, tuned: Interval | None) -> str:
    """Both means in words, or what there is of them."""
    pairs = (("as reported", plain), ("both tuned", tuned))
    return ", ".join(f"{words} {alternative.short(i.mean)}" for words, i in pairs if i is not None)


def fate(found: list[tuple[Interval | None, Interval | None]]) -> str:
    """How many differences seen as reported tuning keeps, and reverses, of how many; "" for none.

    ``found``: intervals as reported and tuned; only pairs that have both count.
    """
    both = [(one, two) for one, two in found if _apart(one) and two is not None]
    still = [(one.mean > 0) == (two.mean > 0) for one, two in both if _apart(two)]
    kept = f"{sum(still)} kept and {len(still) - sum(still)} reversed of {len(both)}"
    return kept if both else ""


def _apart(found: Interval | None) -> bool:
    return found is not None and found.n > 1 and found.excludes(0)


def _rows(axes: Axes, y: float, both: tuple[Interval | None, Interval | None], colour: str) -> None:
    for shift, found, shown in ((-SHORT, both[0], methods.GREY), (SHORT, both[1], colour)):
        if found is None:
            continue
        axes.plot([found.low, found.high], [y + shift] * 2, color=shown, lw=5, alpha=0.45,
                  solid_capstyle="butt")  # fmt: skip
        axes.plot(found.mean, y + shift, "|", color=shown, markersize=11, markeredgewidth=2)


def _key() -> list[Line2D]:
    bar = {"lw": 5, "alpha": 0.45, "solid_capstyle": "butt"}
    return [
        Line2D([], [], color=methods.GREY, label="upper: as reported; mean, 95 % interval", **bar),
        Line2D([], [], color=methods.BLACK, label="lower, in a colour or black: both tuned", **bar),
    ]


def gains(names: tuple[str, ...]):
    """Draw the perplexity of each method as reported and tuned, every seed, a panel a text."""

    def draw(results: Results) -> Figure:
        labels, better, told = results.labels, {}, []
        held = [name for name in names if name in labels and f"{name}_tuned" in labels]
        if not held:
            raise Absent("not drawn, none of these methods has been run tuned")
        height = 0.5 * len(held) + 1.5
        figure, axes = grid_of_panels(counted(results()), "", height, sharey=True)
        drawn = results()["variant"].isin([*held, *(f"{name}_tuned" for name in held)])
        every = results().loc[drawn, "test_ppl"]
        apart = bool(every.max() > 3 * every.min())
        for panel, text in zip(axes, results.corpora, strict=True):
            own = results.on(text)
            there = [name for name in held if _change(own, f"{name}_tuned", name)]
            for name in there:
                means = _drawn(panel, held.index(name), own, name)
                told.append(f"{labels[name]} on {text} {means}")
            rows.name_rows(panel, [labels[name] for name in held])
            if apart:
                style.plain_log(panel, "x")
            panel.set_xlabel(f"test perplexity (lower is better{', logarithmic' * apart})")
            changes = [_change(own, f"{name}_tuned", name) for name in there]
            wins = sum(_apart(found) and found.mean < 0 for found in changes)
            better[text] = f"{wins} of {len(there)}"
        heading(figure, "Methods that tuning alone improves", better)
        tuned = Line2D([], [], color="black", marker="s", ls="none", label="lower: tuned")
        plain = Line2D(
            [], [], color=methods.GREY, marker="s", ls="none", label="upper, grey: as reported"
        )
        alternative.say(figure, f"Mean test perplexity: {'; '.join(told)}.")
        style.legend(figure, [plain, tuned, *rows.key(False)], columns=3)
        return figure

    return draw


def _drawn(axes: Axes, y: int, results: Results, name: str) -> str:
    """Draw a method as reported and tuned, in one row; returns both means in words."""
    means = []
    for shift, variant, colour in (
        (-SHORT, name, methods.GREY),
        (SHORT, f"{name}_tuned", _colour(results.labels[name])),
    ):
        values = rows.own_values(results(), variant, metric(results.corpus))
        rows.draw(axes, y + shift, values, colour)
        means.append(alternative.short(values.mean()))
    return ", tuned ".join(means)


def sizes(compared: tuple[tuple[str, str], ...], larger: tuple[str, ...]):
    """Draw what a tuned method gains over its tuned baseline against the training characters, a
    panel a text of which several sizes have been run.

    ``larger``: how variants on larger texts end, beside those on the text itself.
    """

    def draw(results: Results) -> Figure:
        found = {text: _by_size(results.on(text), compared, larger) for text in results.corpora}
        found = {text: lines for text, lines in found.items() if len(_places(lines)) > 1}
        if not found:
            raise Absent("not drawn, one size of the text has been run")
        figure, axes = grid_of_panels(list(found), "", 4.4)
        wins, shown = {}, list(dict.fromkeys(name for lines in found.values() for name in lines))
        for panel, (text, lines) in zip(axes, found.items(), strict=True):
            for name, points in lines.items():
                _line(panel, name, points, shown.index(name), len(shown))
            panel.axhline(0, color=style.QUIET, linewidth=1, linestyle=":")
            style.plain_log(panel, "x")
            panel.xaxis.set_major_locator(FixedLocator(sorted(_places(lines))))
            panel.set_xlabel("training characters (logarithmic)")
            panel.set_ylabel("% change of test perplexity")
            most = max(_places(lines))
            ends = [points[most] for points in lines.values() if most in points]
            won = sum(_apart(end) and end.mean < 0 for end in ends)
            wins[text] = f"{won} of {len(ends)} at {most:,} characters"
        heading(figure, "Tuned methods that beat their tuned baseline", wins)
        style.legend(figure, axes[0], "point: mean over seeds; bar: 95 % interval over seeds", 2)
        return figure

    return draw


def _by_size(
    results: Results, compared: tuple[tuple[str, str], ...], larger: tuple[str, ...]
) -> dict[str, dict[int, Interval]]:
    """Change of each tuned pair on one text by its training characters, where it was run."""
    labels, lines = results.labels, {}
    chars = results().drop_duplicates("variant").set_index("variant")["train_chars"]
    for treatment, baseline in compared:
        points = {}
        for end in ("_tuned", *(f"_tuned_{size}" for size in larger)):
            if found := _change(results, f"{treatment}{end}", f"{baseline}{end}"):
                points[int(chars[f"{treatment}{end}"])] = found
        if points:
            lines[f"{labels[treatment]} against {labels[baseline]}"] = points
    return lines


def _places(lines: dict[str, dict[int, Interval]]) -> set[int]:
    return {chars for points in lines.values() for chars in points}


def _line(axes: Axes, name: str, points: dict[int, Interval], turn: int, of: int) -> None:
    shift = 1 + 0.02 * (turn - of / 2)  # bars side by side
    at = [place * shift for place in points]
    means = [found.mean for found in points.values()]
    ends = [
        [found.mean - found.low for found in points.values()],
        [found.high - found.mean for found in points.values()],
    ]
    look = {"marker": style.MARKERS[turn % len(style.MARKERS)], "capsize": 2}
    axes.errorbar(at, means, ends, color=_colour(name.split(" against ")[0]), label=name, **look)
