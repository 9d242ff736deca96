"""Everything done to results from the command line.

python tools/results.py table --size quick    means of the sets of parameters that were run here
python tools/results.py claims                verdicts: claims.csv, beside_reported.csv
python tools/results.py figures               draw all figures again from committed tables
python tools/results.py verify --only 03      what was run here against the committed tables
"""

import argparse
import sys
from pathlib import Path

import matplotlib
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from experiments import chosen  # noqa: E402

from lib import registry  # noqa: E402
from lib.figures import gallery  # noqa: E402
from lib.parameters import SIZES  # noqa: E402
from lib.results import beside_reported, scoreboard, store, tables  # noqa: E402
from lib.results.verify import compare  # noqa: E402
from lib.runs.places import shown  # noqa: E402


def table(size: str) -> None:
    """Print every set of parameters that was run here: what is not at its size's own, and means."""
    for about in store.all_sets():
        if size and about["size"] != size:
            continue
        schema = registry.experiment(about["experiment"]).parameters
        usual = schema.at(about["size"] if about["size"] != "custom" else "full").model_dump()
        own = {k: v for k, v in about["parameters"].items() if usual.get(k) != v}
        print(f"\n{about['experiment']}, {about['size']}: {about['runs']} runs", end="")
        print(f", {about['outstanding']} outstanding" if about["outstanding"] else "", end="")
        print(f", written {about['written']}, {shown(about['folder'])}")
        print(f"  parameters: {', '.join(f'{k}={v!r}' for k, v in own.items()) or 'all usual'}")
        mean = tables.means(store.load_set(about["folder"])())
        print(mean.round(2).astype(object).where(mean.notna(), "").to_string())
    print("\nThe committed verdicts: make claims")


def claims() -> None:
    """Decide all claims, save them, and print them."""
    frame = scoreboard.write(registry.claims())
    beside_reported.write(registry.experiments().values())
    shown_columns = ["id", "kind", "corpus", "size", "reported", "ours", "n", "verdict"]
    with pd.option_context("display.width", 200, "display.max_colwidth", 60):
        print(frame[shown_columns].to_string(index=False))


def figures(slugs: list[str]) -> None:
    """Draw the figures of all experiments whose results are committed."""
    matplotlib.use("Agg")
    for slug in slugs:
        if store.has_committed(slug):
            print("\n".join(gallery.redraw(registry.experiment(slug))))


def verify(slugs: list[str]) -> None:
    """Compare the newest full set of each experiment with the committed tables; exits 1 if a
    number differs or nothing was run here."""
    wrong = 0
    for slug in slugs:
        sets = [s for s in store.all_sets() if s["experiment"] == slug and s["size"] == "full"]
        if not sets:
            sys.exit(f"{slug} was not run here; `make reproduce NB={slug[:2]}` runs it")
        newest = max(sets, key=lambda about: about["written"])
        found = compare(store.load_set(newest["folder"]), store.committed(slug))
        main_rows = found[found["table"] == "main"]
        print(f"\n{slug}: {shown(newest['folder'])} against results/{slug}.csv")
        print(main_rows.drop(columns="table").to_string(index=False))
        counts = found["verdict"].value_counts()
        print(f"{int(found['numbers'].sum()):,} numbers: " + str(counts.to_dict()))
        wrong += int((~found["verdict"].isin(("equal", "close"))).sum())
    sys.exit(f"{wrong} rows differ or are missing" if wrong else 0)


def main() -> None:
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("action", choices=("table", "claims", "figures", "verify"))
    parser.add_argument(
        "--size", default="", choices=("", *SIZES, "custom"), help="only sets of this size"
    )
    parser.add_argument("--only", default="", help="numbers, such as 03,04")
    given = parser.parse_args()
    if given.action == "table":
        table(given.size)
    elif given.action == "claims":
        claims()
    elif given.action == "figures":
        figures(chosen(given.only))
    else:
        verify(chosen(given.only))


if __name__ == "__main__":
    main()
