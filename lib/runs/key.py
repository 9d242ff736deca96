"""What a finished run is found by: what was declared, not how it is written.

The key of a run holds the declared name and version of its function, its configuration with the
VERSION of every class in it, its random seed, the hash of the data, and the release (first two
numbers) of torch, and of each library that a class of the configuration names in LIBRARIES. Moving,
renaming modules and rewriting code change none of them. Fields at their default are left out, so
that a mechanism that is added, off by default, leaves finished runs as they are.

``tests/golden`` keeps this honest: the numbers of every variant at a small size. A number that
moves under an unchanged key is either a mistake or a new VERSION.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterable
from typing import Any

KEY_DIGITS = 12


def run_function(
    name: str,
    version: int = 1,
    starts_from: Callable[[Any, int], Iterable[tuple]] = lambda config, seed: (),
    clock: bool = False,
) -> Callable[[Callable], Callable]:
    """Declare a function as one that runs: ``name`` and ``version`` enter the key of its runs.

    ``starts_from(config, seed)``: the runs of other rows and notebooks that it needs finished, each
    as the arguments of ``Place.need``. It is given where such a run may take long and is not
    counted within the function's own row: the forecast tells it, and a sweep makes it before what
    reads the clock (what reads the clock itself is made, and counted, by the first that needs it).
    ``clock``: the function reads the clock, so that nothing may run beside it. Neither enters a
    key: who raises the version of a function raises those of the functions that copy its numbers.
    """

    def declare(function: Callable) -> Callable:
        function.run_name, function.run_version = name, version
        function.starts_from, function.reads_clock = starts_from, clock
        return function

    return declare


def run_key(function: Callable, config: Any, seed: int, device: str = "cpu") -> str:
    """Twelve hex digits that name a computation. Devices other than the CPU have keys of their own.

    Raises TypeError for a function that was not declared, or a configuration without a stable
    description.
    """
    if not hasattr(function, "run_name"):
        raise TypeError(f"{function.__qualname__} is not declared with run_function")
    content = {
        "function": [function.run_name, function.run_version],
        "config": described(config),
        "seed": seed,
        "libraries": {name: release(name) for name in sorted({"torch"} | libraries(config))},
    }
    if device != "cpu":
        content["device"] = device
    return digest(content)


def digest(content: Any) -> str:
    """Twelve hex digits over plain JSON."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


@functools.cache
def release(library: str) -> str:
    """The first two numbers of an installed version."""
    return ".".join(importlib.metadata.version(library).split("+")[0].split(".")[:2])


def described(value: Any) -> Any:
    """``value`` as plain JSON; objects with a ``sha256`` count by name and hash.

    Raises TypeError for anything that has no stable description.
    """
    if hasattr(value, "sha256") and hasattr(value, "name"):
        return {"name": value.name, "sha256": value.sha256}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        named = {"class": kind.__qualname__, "version": getattr(kind, "VERSION", 1)}
        return {**named, **{f.name: described(getattr(value, f.name)) for f in _told(value)}}
    if isinstance(value, dict):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a configuration cannot hold a {type(value).__name__}")


def defaults(kind: type) -> dict[str, Any]:
    """The defaults of a configuration class, described: they may not change under one VERSION.
    Fields that only say where something is are no part of it, as they are none of the key."""
    found = {}
    for field in dataclasses.fields(kind):
        if field.metadata.get("place"):
            continue
        if field.default is not dataclasses.MISSING:
            found[field.name] = described(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = described(field.default_factory())
    return found


def libraries(value: Any) -> set[str]:
    """Every library that a class of a configuration names in LIBRARIES."""
    found = set(getattr(type(value), "LIBRARIES", ()))
    if dataclasses.is_dataclass(value):
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        found = found.union(*(libraries(item) for item in value))
    return found


def _told(value: Any) -> list[dataclasses.Field]:
    """The fields that enter the description: those not at their default, but for hidden ones.

    A field with the metadata ``{"place": True}`` says where something is, not what: it never
    enters.
    """
    told = []
    for field in dataclasses.fields(value):
        if not field.init or field.metadata.get("place"):
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        item = getattr(value, field.name)
        if default is dataclasses.MISSING or type(item) is not type(default) or item != default:
            told.append(field)
    return told
