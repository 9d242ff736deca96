"""Write the front pages, README.md and README.ja.md, and the figure of all claims.

python tools/readme.py            from results/claims.csv and the texts in docs/readme
"""

import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib.figures import forest, style  # noqa: E402
from lib.results import front, scoreboard  # noqa: E402
from lib.runs import files  # noqa: E402


def main() -> None:
    matplotlib.use("Agg")
    style.use()
    style.save(
        forest.forest(pd.read_csv(scoreboard.PATH)), ROOT / "figures" / "claims.png", dpi=140
    )
    plt.close("all")
    for name, text in front.pages().items():
        files.write_text(ROOT / name, text)
        print(f"{name}: {len(text.split()):,} words")


if __name__ == "__main__":
    main()
