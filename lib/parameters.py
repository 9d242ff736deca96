"""The one door for parameters, whichever way they came: papermill, a Colab form, a nbmake mock
or an edit by hand.

An experiment declares a frozen dataclass derived from ``Parameters``; every field carries its
limits (``whole``, ``real``, ``choice``, ``switch``, ``words``, ``folder``, ``wholes``, ``reals``).
``Parameters.checked`` stops on an unknown name, a wrong type or an impossible value, in one
sentence that names the parameter and says what is allowed.
"""

import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self


class ParameterError(ValueError):
    """A parameter that no experiment can run with; the message says what is allowed."""


def whole(default: int, at_least: int, at_most: int | None = None) -> Any:
    """A whole number between two limits, both included."""
    return field(default=default, metadata={"check": _within(int, at_least, at_most, False)})


def real(
    default: float, at_least: float = 0.0, at_most: float | None = None, above: bool = False
) -> Any:
    """A finite number between two limits; ``above`` excludes the lower one."""
    return field(default=default, metadata={"check": _within(float, at_least, at_most, above)})


def choice(default: str, options: tuple[str, ...]) -> Any:
    """One of a few words."""

    def check(value: str) -> str | None:
        return None if value in options else f"allowed: {', '.join(options)}"

    return field(default=default, metadata={"check": check, "options": options})


def switch(default: bool) -> Any:
    """True or False."""
    return field(default=default, metadata={"check": lambda value: None})


def words(default: str) -> Any:
    """Any text."""
    return field(default=default, metadata={"check": lambda value: None})


def folder() -> Any:
    """A folder that exists, or nothing: a typing error must not pass for an absent text."""
    return field(default="", metadata={"check": no_folder})


def no_folder(name: str) -> str | None:
    """What is wrong with the name of a folder; None if it exists or nothing is named."""
    found = not name or Path(name).expanduser().is_dir()
    return None if found else "there is no such folder; allowed: a folder that exists, or nothing"


def wholes(default: str, at_least: int, at_most: int | None = None) -> Any:
    """A list of different whole numbers written ``"1,3,6"``; ``numbers`` reads it.

    Text, because forms have no lists.
    """
    check = _each(_within(int, at_least, at_most, False), int, False)
    return field(default=default, metadata={"check": check, "kind": int})


def reals(
    default: str,
    at_least: float,
    at_most: float | None = None,
    above: bool = False,
    repeats: bool = False,
) -> Any:
    """A list of numbers written ``"0.5,0.8"``.

    ``above`` excludes the lower limit; ``repeats`` allows a number twice, for a list that goes
    along with another.
    """
    check = _each(_within(float, at_least, at_most, above), float, repeats)
    return field(default=default, metadata={"check": check, "kind": float})


@dataclass(frozen=True)
class Parameters:
    """Base of every experiment's parameters: defaults are the full size.

    ``QUICK`` and ``TINY`` are the overrides that make the quick run and the tests; the three
    sizes differ in nothing else. ``PLACES`` are fields that say where text, base and processes
    are, not how much is computed: they do not count when the size is named. Corpus and base do
    change the numbers, which is why every row of a table names them.
    """

    QUICK: ClassVar[dict[str, Any]] = {}
    TINY: ClassVar[dict[str, Any]] = {}
    PLACES: ClassVar[tuple[str, ...]] = ("corpus", "data_dir", "base", "device", "workers")

    @classmethod
    def checked(cls, given: dict[str, Any]) -> Self:
        """Parameters from names and values. Raises ParameterError as said above."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        accepted = {}
        for name, value in given.items():
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                raise ParameterError(
                    f"unknown parameter {name!r}{hint} Allowed: {', '.join(sorted(fields))}."
                )
            accepted[name] = _checked(fields[name], value)
        made = cls(**accepted)
        made.check()
        return made

    def check(self) -> None:
        """Rules between parameters; raise ParameterError. Nothing by default."""

    @classmethod
    def at(cls, size: str) -> Self:
        """The parameters of a size: full, quick or tiny. KeyError for another word."""
        return cls.checked({"full": {}, "quick": cls.QUICK, "tiny": cls.TINY}[size])

    @property
    def size(self) -> str:
        """full, quick or tiny if all values are those of that size, else custom."""
        for size in ("full", "quick", "tiny"):
            preset = dataclasses.replace(
                type(self).at(size), **{name: getattr(self, name) for name in self._places()}
            )
            if preset == self:
                return size
        return "custom"

    def numbers(self, name: str) -> list[float]:
        """The list that a ``wholes`` or ``reals`` parameter spells."""
        kind = next(f.metadata["kind"] for f in dataclasses.fields(self) if f.name == name)
        return [kind(part) for part in getattr(self, name).split(",")]

    def _places(self) -> list[str]:
        return [f.name for f in dataclasses.fields(self) if f.name in self.PLACES]


def _checked(declared: dataclasses.Field, value: Any) -> Any:
    expected = type(declared.default)
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        example = "1.0e-3, not 1e-3" if expected is float else repr(declared.default)
        raise ParameterError(
            f"parameter {declared.name!r} is {value!r}, of type {type(value).__name__}; allowed: "
            f"a value of type {expected.__name__}, such as {declared.default!r}"
            + (f" (in YAML write {example})." if expected is float else ".")
        )
    complaint = declared.metadata["check"](value)
    if complaint:
        raise ParameterError(f"parameter {declared.name!r} is {value!r}; {complaint}.")
    return value


def _within(kind: type, low: float, high: float | None, above: bool) -> Any:
    span = f"above {low:g}" if above else f"at least {low:g}"
    span += "" if high is None else f", at most {high:g}"
    noun = "a whole number" if kind is int else "a finite number"

    def check(value: float) -> str | None:
        inside = math.isfinite(value) and value >= low and (high is None or value <= high)
        return None if inside and not (above and value == low) else f"allowed: {noun} {span}"

    return check


def _each(single: Any, kind: type, repeats: bool) -> Any:
    example = "'1,2,3'" if kind is int else "'0.5,0.8'"

    def check(value: str) -> str | None:
        try:
            parts = [kind(part) for part in value.split(",")]
        except ValueError:
            return f"allowed: numbers parted by commas, such as {example}"
        if not repeats and len(set(parts)) < len(parts):
            return "allowed: each number once"
        return next((found for part in parts if (found := single(part))), None)

    return check
