"""What a command says in one sentence, without a traceback: a refusal, never a mistake of ours."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lib.parameters import ParameterError
from lib.results.schema import SchemaError
from lib.runs.devices import CoresUnclear, DeviceUnavailable
from lib.runs.engines import EngineUnavailable
from lib.runs.fetch import Refused, Unavailable
from lib.runs.files import NoRoom
from lib.runs.places import NoHome
from lib.runs.sweep import SweepFailed

REFUSALS = (
    ParameterError, SweepFailed, NoRoom, Unavailable, Refused, DeviceUnavailable, CoresUnclear,
    EngineUnavailable, SchemaError, NoHome,
)  # fmt: skip


@contextmanager
def told() -> Iterator[None]:
    """End the command with the sentence of a refusal, and a status that is not 0."""
    try:
        yield
    except REFUSALS as refusal:
        sys.exit(str(refusal))
