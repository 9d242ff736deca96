"""All experiments, found by their module names: ``expNN_slug`` belongs to ``NN_slug.ipynb``.

Every such module has SLUG, PARAMETERS (its dataclass) and CLAIMS (may be empty).
"""

import importlib
import pkgutil
import re
from types import ModuleType

import lib.experiments
from lib.runs.places import ROOT
from lib.results.claims import Claim


def modules() -> dict[str, ModuleType]:
    """Experiment modules by slug, in the order of their numbers."""
    names = sorted(
        found.name
        for found in pkgutil.iter_modules(lib.experiments.__path__)
        if found.name[:3] == "exp" and found.name[3:5].isdigit()
    )
    loaded = (importlib.import_module(f"lib.experiments.{name}") for name in names)
    return {module.SLUG: module for module in loaded}


def pending() -> set[str]:
    """Slugs that ``docs/PENDING.md`` lists: written and tested, not yet run at the full size."""
    text = (ROOT / "docs" / "PENDING.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| (\d\d_\w+) \|", text, re.MULTILINE))


def claims() -> list[Claim]:
    """Every claim of every experiment, in order. Raises ValueError if two share an id."""
    found = [claim for module in modules().values() for claim in module.CLAIMS]
    ids = [claim.id for claim in found]
    repeated = sorted({name for name in ids if ids.count(name) > 1})
    if repeated:
        raise ValueError(f"claims share an id: {', '.join(repeated)}")
    return found
