"""Everything done to results from the command line.

python tools/results.py table --size quick    means of the sets of parameters that were run here
python tools/results.py claims                verdicts: claims.csv, beside_reported.csv, front pages
python tools/results.py figures               draw all figures again from committed tables
python tools/results.py verify --only 03      what was run here against the committed tables
"""

import argparse
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from experiments import chosen  # noqa: E402

from lib import registry  # noqa: E402
from lib.figures import forest, gallery, style  # noqa: E402
from lib.parameters import FULL, SIZES  # noqa: E402
from lib.results import beside_reported, front, scoreboard, store, tables, verified  # noqa: E402
from lib.results.schema import SchemaError  # noqa: E402
from lib.results.verify import compare, lack  # noqa: E402
from lib.runs import files  # noqa: E402
from lib.runs.places import shown  # noqa: E402


def table(size: str) -> None:
    """Print every set of parameters that was run here: what is not at its size's own, and means."""
    for about in store.all_sets():
        if size and about["size"] != size:
            continue
        if not registry.has(about["experiment"]):
            print(f"\n{shown(about['folder'])} is of {about['experiment']}, which is no more")
            continue
        schema = registry.experiment(about["experiment"]).parameters
        usual = schema.at(about["size"] if about["size"] != "custom" else "full").model_dump()
        own = {k: v for k, v in about["parameters"].items() if usual.get(k) != v}
        print(f"\n{about['experiment']}, {about['size']}: {about['runs']} runs", end="")
        print(f", {about['outstanding']} outstanding" if about["outstanding"] else "", end="")
        print(f", written {about['written']}, {shown(about['folder'])}")
        print(f"  parameters: {', '.join(f'{k}={v!r}' for k, v in own.items()) or 'all usual'}")
        try:
            mean = tables.means(store.load_set(about["folder"])())
        except (SchemaError, files.Damaged) as damage:
            print(f"  {damage}; run its experiment again")
            continue
        print(mean.round(2).astype(object).where(mean.notna(), "").to_string())
    print("\nThe committed verdicts: make claims")


def claims() -> None:
    """Decide all claims, save them, write the front pages and their figure; print the claims."""
    frame = scoreboard.write(registry.claims())
    beside_reported.write(registry.experiments().values())
    shown_columns = ["id", "kind", "corpus", "size", "reported", "ours", "n", "verdict"]
    with pd.option_context("display.width", 200, "display.max_colwidth", 60):
        print(frame[shown_columns].to_string(index=False))
    style.use()
    saved = scoreboard.saved()
    style.save(forest.forest(saved, registry.stated()), ROOT / "figures" / "claims.png", dpi=140)
    plt.close("all")
    for name, text in front.pages().items():
        files.write_text(ROOT / name, text)
        print(f"{name}: {len(text.split()):,} words")


def figures(slugs: list[str]) -> None:
    """Draw the figures of all experiments whose results are committed."""
    for slug in slugs:
        if store.has_committed(slug):
            print("\n".join(gallery.redraw(registry.experiment(slug))))


def verify(slugs: list[str], size: str, record: bool = False) -> None:
    """Compare the newest set of each experiment at a size with the committed tables; exits 1 if a
    number differs, a committed row was not run, or nothing was run here. ``record`` keeps what was
    found in results/verified.csv."""
    wrong, less = 0, 0
    for slug in slugs:
        sets = [s for s in store.all_sets() if s["experiment"] == slug and s["size"] == size]
        if not sets:
            sys.exit(
                f"{slug} was not run here at the {size} size; `make reproduce NB={slug[:2]}"
                f"{'' if size == FULL else f' SIZE={size}'}` runs it"
            )
        newest = max(sets, key=lambda about: about["written"])
        yours, ours = store.load_set(newest["folder"]), store.committed(slug)
        found = compare(yours, ours)
        if not found["numbers"].sum():
            here, there = (
                "; ".join(" ".join(p) for p in r()[["corpus", "size"]].drop_duplicates().to_numpy())
                for r in (yours, ours)
            )
            sys.exit(f"{slug}: nothing to compare; run here: {here}; committed: {there}")
        if record and verified.copied(yours, ours):
            sys.exit(
                f"{slug}: these are the committed rows; only what is trained again is recorded"
            )
        if record:
            verified.keep(verified.summary(slug, found, yours))
        main_rows = found[found["table"] == "main"]
        print(f"\n{slug}: {shown(newest['folder'])} against results/{slug}.csv")
        print(main_rows.drop(columns="table").to_string(index=False))
        for about, columns in lack(yours, ours).items():
            print(f"not compared: {', '.join(columns)} (no committed row of {' '.join(about)})")
        counts = found["verdict"].value_counts()
        print(f"{int(found['numbers'].sum()):,} numbers: " + str(counts.to_dict()))
        wrong += int(found["verdict"].isin(("differs", "missing")).sum())
        less += int((found["verdict"] == "not run").sum())
    said = f"{wrong} rows differ or are missing, {less} were not run"
    sys.exit(said if wrong or less else 0)


def main() -> None:
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("action", choices=("table", "claims", "figures", "verify"))
    parser.add_argument(
        "--size", default="", choices=("", *SIZES, "custom"), help="only sets of this size"
    )  # of verify: full unless it is given
    parser.add_argument("--only", default="", help="numbers, such as 03,04")
    parser.add_argument(
        "--record", action="store_true", help="verify: keep what was found in results/verified.csv"
    )
    given = parser.parse_args()
    if given.record and given.action != "verify":
        parser.error(f"--record is of verify; {given.action} records nothing")
    matplotlib.use("Agg")
    try:
        if given.action == "table":
            table(given.size)
        elif given.action == "claims":
            claims()
        elif given.action == "figures":
            figures(chosen(given.only))
        else:
            verify(chosen(given.only), given.size or FULL, given.record)
    except (SchemaError, FileNotFoundError, files.Damaged, files.NoRoom) as refusal:
        sys.exit(str(refusal))


if __name__ == "__main__":
    main()
