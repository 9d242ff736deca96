"""Where things lie: the repository, finished runs, sets of results, and the user's cache.

``DEPTH_CACHE`` holds what is fetched or can be made again (texts, base models, features);
``DEPTH_KEEP`` holds runs and results. A notebook in Colab may point the second one at Drive. A
relative path is one of the repository, wherever a command or a notebook is started.
"""

import contextlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BEGUN = "DEPTH_KEEP_BEGUN"  # set by begin_keeping alone


class NoHome(RuntimeError):
    """A path that begins in a home folder which nobody has."""


def at_home(path: str | Path) -> Path:
    """A path whose ``~`` is put in full. Raises NoHome where no such home folder is known: the user
    of a container may have no name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise NoHome(
            f"{path} begins in a home folder that is not known; allowed: a path without ~, in"
            " DEPTH_CACHE or DEPTH_KEEP too"
        ) from None


def cache_folder() -> Path:
    """Downloads and features: ``$DEPTH_CACHE`` or a folder of the user's cache. Raises NoHome."""
    return ROOT / at_home(os.environ.get("DEPTH_CACHE") or "~/.cache/depth-adaptive-lm")


def kept_folder() -> Path:
    """Runs and sets of results: ``$DEPTH_KEEP`` or ``results/`` here. Raises NoHome."""
    return ROOT / at_home(os.environ.get("DEPTH_KEEP") or "results")


def begin_keeping() -> None:
    """Make the folder of runs and sets; from now on, here and in worker processes, it is not made
    again if it vanishes (a Drive that was cut off): what is kept elsewhere would be lost."""
    kept = kept_folder()
    with contextlib.suppress(OSError):  # the first file that cannot be written says why
        kept.mkdir(parents=True, exist_ok=True)
        os.environ[BEGUN] = str(kept)


def is_gone(path: Path) -> bool:
    """Whether ``path`` belongs into a folder of runs and sets that has vanished since it was
    begun."""
    kept = kept_folder()
    begun = os.environ.get(BEGUN) == str(kept)
    return begun and path.is_relative_to(kept) and not kept.is_dir()


def runs_folder() -> Path:
    """One folder a finished or interrupted run, named by its key."""
    return kept_folder() / "runs"


def sets_folder() -> Path:
    """One folder a set of parameters, named by experiment and key."""
    return kept_folder() / "sets"


def recorded_counts() -> bool:
    """Whether runs whose rows are committed count as finished (``DEPTH_RECORDED=1``)."""
    return os.environ.get("DEPTH_RECORDED", "") == "1"


def shows_committed() -> bool:
    """Whether experiments show the committed rows instead of running (``DEPTH_SHOW=committed``)."""
    return os.environ.get("DEPTH_SHOW", "") == "committed"


def shown(path: Path) -> str:
    """A path as it is printed: inside the repository relative to it, else its last two parts."""
    if path.is_relative_to(ROOT):
        return str(path.relative_to(ROOT))
    return str(Path(*path.parts[-2:]))
