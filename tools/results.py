"""Everything done to results from the command line.

python tools/results.py table --size quick    the table `make run` ends with
python tools/results.py claims                verdicts: claims.csv and the README's scoreboard
python tools/results.py figures               draw all figures again from committed tables
"""

import argparse
import sys
from pathlib import Path

import matplotlib
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib.experiments import registry  # noqa: E402
from lib.figures import gallery  # noqa: E402
from lib.results import scoreboard, store  # noqa: E402


def table(size: str) -> None:
    """Print mean perplexities of every variant, and where plots and notebooks are."""
    for slug in registry.modules():
        try:
            frame = store.read(slug, size=size)
        except FileNotFoundError:
            continue
        grouped = frame.groupby(["corpus", "variant"], sort=False)
        mean = grouped.agg(
            n=("seed", "size"), val_ppl=("val_ppl", "mean"), test_ppl=("test_ppl", "mean")
        )
        print(f"\n{slug} ({size})")
        print(mean.round(2).astype(object).where(mean.notna(), "").to_string())
    print(f"\nplots:      {store.folder('figures', size).relative_to(ROOT)}/")
    print(f"tables:     {store.folder('results', size).relative_to(ROOT)}/")
    print(f"notebooks:  results/{size}/notebooks/")
    print("The committed full-size verdicts: make claims")


def claims() -> None:
    """Decide all claims, save them, refresh the README, and print them."""
    frame = scoreboard.write(registry.claims())
    scoreboard.update_readme(frame)
    with pd.option_context("display.width", 200, "display.max_colwidth", 72):
        print(frame[["id", "corpus", "reported", "ours", "n", "verdict"]].to_string(index=False))


def figures(only: str) -> None:
    """Draw the figures of all experiments whose results are committed.

    Exits if a number in ``only`` is that of no experiment.
    """
    matplotlib.use("Agg")
    wanted = {number.strip().zfill(2) for number in only.split(",")} if only else None
    numbers = {slug[:2] for slug in registry.modules()}
    if wanted and (missing := sorted(wanted - numbers)):
        sys.exit(f"no experiment {', '.join(missing)}; there are {', '.join(sorted(numbers))}")
    for slug, module in registry.modules().items():
        if slug in registry.pending():
            print(f"{slug}: not yet run at the full size (docs/PENDING.md)")
        elif wanted is None or slug[:2] in wanted:
            print("\n".join(gallery.redraw(module, store.FULL)))


def main() -> None:
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("action", choices=("table", "claims", "figures"))
    parser.add_argument("--size", choices=("full", "quick", "tiny"), default="quick")
    parser.add_argument("--only", default="", help="numbers, such as 03,04")
    given = parser.parse_args()
    if given.action == "table":
        table(given.size)
    elif given.action == "claims":
        claims()
    else:
        figures(given.only)


if __name__ == "__main__":
    main()
