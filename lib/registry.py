"""All experiments by slug, in the order of their numbers, found by their modules' names.

``lib/<study>/experiments/eNN_slug.py`` holds the Experiment ``ENN`` of the notebook ``NN_slug``.
"""

import functools
import importlib

from lib.experiment import Experiment
from lib.results import store
from lib.results.claims import Claim
from lib.results.store import Results
from lib.runs.places import ROOT


@functools.cache
def module_names() -> dict[str, str]:
    """Module of each experiment by slug."""
    found = {}
    for path in (ROOT / "lib").glob("*/experiments/e[0-9][0-9]_*.py"):
        study = path.parent.parent.name
        found[path.stem[1:]] = f"lib.{study}.experiments.{path.stem}"
    return dict(sorted(found.items()))


def has(slug: str) -> bool:
    """Whether a notebook is that of an experiment (some only show committed results)."""
    return slug in module_names()


def experiment(slug: str) -> Experiment:
    """One experiment. Raises KeyError for a slug without a module."""
    module = importlib.import_module(module_names()[slug])
    return getattr(module, f"E{slug[:2]}")


def experiments() -> dict[str, Experiment]:
    """All of them: imports every study."""
    return {slug: experiment(slug) for slug in module_names()}


def claims() -> list[tuple[Claim, Results | None]]:
    """Every claim beside the committed results that decide it."""
    found = []
    for slug, entry in experiments().items():
        results = store.committed(slug) if store.has_committed(slug) else None
        found += [(claim, results) for claim in entry.claims]
    ids = [claim.id for claim, _ in found]
    repeated = sorted({name for name in ids if ids.count(name) > 1})
    if repeated:
        raise ValueError(f"claims share an id: {', '.join(repeated)}")
    return found


def stated() -> dict[str, float]:
    """The reports' own values by the ids of the claims about them."""
    known = (claim for entry in experiments().values() for claim in entry.claims)
    return {claim.id: claim.reported for claim in known if claim.reported is not None}
