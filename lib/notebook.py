"""What every notebook does at its start and when it shows something."""

import dataclasses
import platform
import warnings
from types import FunctionType, ModuleType
from typing import Any, TypeVar

import pandas as pd
import torch
from IPython.display import HTML, display

from lib.figures import style
from lib.parameters import Parameters

P = TypeVar("P", bound=Parameters)
_known: set[str] = set()


def begin(names: dict[str, Any]) -> None:
    """Remember which names exist before the parameters cell, and set the look of figures.

    ``names`` is the notebook's ``globals()``.
    """
    _known.clear()
    _known.update(names)
    style.use()
    # transformers asks for a progress widget that a headless run has no use for
    warnings.filterwarnings("ignore", message="IProgress not found")
    pd.set_option("display.max_colwidth", None)  # a verdict's reason is shown whole


def configure(schema: type[P], names: dict[str, Any]) -> P:
    """The checked parameters: every name that has appeared since ``begin``.

    Prints them with the size they make and the device. Raises ParameterError, before anything is
    trained, for an unknown name, a wrong type or an impossible value.
    """
    given = {
        name: value
        for name, value in names.items()
        if name not in _known
        and not name.startswith("_")
        and name not in ("In", "Out")
        and not isinstance(value, (ModuleType, type, FunctionType))  # what the cell imports
    }
    run = schema.checked(given)
    print(f"size: {run.size}")
    for name in (f.name for f in dataclasses.fields(run)):
        value = getattr(run, name)
        # a folder is a fact about the machine, not about the run
        print(f"  {name:<16} {'(given)' if name == 'data_dir' and value else repr(value)}")
    print(f"python {platform.python_version()}, torch {torch.__version__}")
    return run


def show(table: pd.DataFrame) -> None:
    """Display a table under a line that says what its numbers stand on."""
    if "caption" in table.attrs:
        display(HTML(f"<small>{table.attrs['caption']}</small>"))
    display(table)
