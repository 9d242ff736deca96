"""Figures of methods that are tuned alike, beside what their reports trained them with."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from lib.character.figures.common import metric
from lib.figures import alternative, methods, rows, style
from lib.results import tables
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
    """Draw what each method gains over its baseline, as reported and tuned, a panel a text."""

    def draw(results: Results) -> Figure:
        results = results.on(results.corpora[0])
        labels, found = results.labels, {}
        for treatment, baseline in compared:
            plain = _change(results, treatment, baseline)
            tuned = _change(results, f"{treatment}_tuned", f"{baseline}_tuned")
            if plain or tuned:
                found[f"{labels[treatment]}\nagainst {labels[baseline]}"] = (plain, tuned)
        figure, axes = plt.subplots(figsize=(8.2, 0.62 * len(found) + 1.5))
        for y, (name, both) in enumerate(found.items()):
            colour = _colour(name.split("\n")[0])
            _rows(axes, y, both, colour)
        rows.name_rows(axes, list(found))
        axes.axvline(0, color=style.QUIET, linewidth=1, linestyle=":")
        axes.set_xlabel("% change of test perplexity (below 0: the first named is better)")
        axes.set_title(f"{fate(list(found.values()))} ({tables.corpora(results())})")
        style.legend(figure, _key(), columns=2)
        told = (f"{' '.join(name.split())}: {_said(*both)}" for name, both in found.items())
        alternative.say(figure, f"Change in %: {'; '.join(told)}.")
        return figure

    return draw


def _said(plain: Interval | None, tuned: Interval | None) -> str:
    """Both means in words, or what there is of them."""
    pairs = (("as reported", plain), ("both tuned", tuned))
    return ", ".join(f"{words} {alternative.short(i.mean)}" for words, i in pairs if i is not None)


def fate(found: list[tuple[Interval | None, Interval | None]]) -> str:
    """What becomes of the differences seen as reported when both methods are tuned, in words.

    ``found``: intervals as reported and tuned; only pairs that have both count.
    """
    both = [(one, two) for one, two in found if _apart(one) and two is not None]
    still = [(one.mean > 0) == (two.mean > 0) for one, two in both if _apart(two)]
    seen = f"Of {len(both)} difference{'' if len(both) == 1 else 's'} seen as reported"
    return f"{seen}, tuning preserves {sum(still)} and reverses {len(still) - sum(still)}"


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
        Line2D([], [], color=methods.GREY, label="grey: as reported; mean, 95 % interval", **bar),
        Line2D([], [], color=methods.BLACK, label="in colour: both tuned", **bar),
    ]


def gains(names: tuple[str, ...]):
    """Draw the perplexity of each method as reported and tuned, every seed, a row each."""

    def draw(results: Results) -> Figure:
        results = results.on(results.corpora[0])
        frame, labels = results(), results.labels
        held = [name for name in names if name in labels and f"{name}_tuned" in labels]
        means = frame.groupby("variant")[metric(results.corpus)].mean()
        changes = [found for name in held if (found := _change(results, f"{name}_tuned", name))]
        better = sum(_apart(found) and found.mean < 0 for found in changes)
        figure, axes = plt.subplots(figsize=(8.2, 0.5 * len(held) + 1.5))
        for y, name in enumerate(held):
            colour = _colour(labels[name])
            for shift, variant, shown in (
                (-SHORT, name, methods.GREY),
                (SHORT, f"{name}_tuned", colour),
            ):
                values = rows.own_values(frame, variant, metric(results.corpus))
                rows.draw(axes, y + shift, values, shown)
        rows.name_rows(axes, [labels[name] for name in held])
        axes.set_xlabel("test perplexity (lower is better)")
        axes.set_title(
            f"Tuning alone improves {better} of {len(held)} methods ({tables.corpora(frame)})"
        )
        tuned = Line2D([], [], color="black", marker="s", ls="none", label="in colour: tuned")
        plain = Line2D([], [], color=methods.GREY, marker="s", ls="none", label="grey: as reported")
        told = (
            f"{labels[name]} {alternative.short(means[name])}, tuned"
            f" {alternative.short(means[f'{name}_tuned'])}"
            for name in held
        )
        alternative.say(figure, f"Mean test perplexity: {'; '.join(told)}.")
        style.legend(figure, [plain, tuned, *rows.key(False)], columns=3)
        return figure

    return draw


def sizes(compared: tuple[tuple[str, str], ...], larger: tuple[str, ...]):
    """Draw what a tuned method gains over its tuned baseline against the training characters.

    ``larger``: how variants on larger texts end, beside those on the text itself.
    """

    def draw(results: Results) -> Figure:
        results = results.on(results.corpora[0])
        frame, labels = results(), results.labels
        chars = frame.drop_duplicates("variant").set_index("variant")["train_chars"]
        lines, places = {}, set()
        for treatment, baseline in compared:
            points = {}
            for end in ("_tuned", *(f"_tuned_{size}" for size in larger)):
                if found := _change(results, f"{treatment}{end}", f"{baseline}{end}"):
                    points[int(chars[f"{treatment}{end}"])] = found
            if points:
                lines[f"{labels[treatment]} against {labels[baseline]}"] = points
                places |= points.keys()
        if len(places) < 2:
            raise Absent("not drawn, one size of the text has been run")
        figure, axes = plt.subplots(figsize=(7.6, 4.4))
        for (name, points), marker in zip(lines.items(), style.MARKERS, strict=False):
            colour = _colour(name.split(" against ")[0])
            shift = 1 + 0.02 * (style.MARKERS.index(marker) - len(lines) / 2)  # bars side by side
            at = [place * shift for place in points]
            means = [found.mean for found in points.values()]
            ends = [
                [found.mean - found.low for found in points.values()],
                [found.high - found.mean for found in points.values()],
            ]
            axes.errorbar(at, means, ends, color=colour, marker=marker, label=name, capsize=2)
        axes.axhline(0, color=style.QUIET, linewidth=1, linestyle=":")
        style.plain_log(axes, "x")
        axes.xaxis.set_major_locator(FixedLocator(sorted(places)))
        axes.set_xlabel("training characters (logarithmic)")
        axes.set_ylabel("% change of test perplexity")
        most = max(places)
        wins = sum(most in p and _apart(p[most]) and p[most].mean < 0 for p in lines.values())
        axes.set_title(
            f"At {most:,} characters {wins} of {sum(most in p for p in lines.values())} tuned"
            f" methods beat their tuned baseline ({tables.corpora(frame)})"
        )
        style.legend(figure, axes, "point: mean over seeds; bar: 95 % interval over seeds", 2)
        return figure

    return draw
