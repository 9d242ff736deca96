"""How every parameter is declared, typed and checked, whichever way it came: papermill, a Colab
form, a nbmake mock, a command line or an edit by hand.

An experiment declares a class derived from ``Parameters``; every field carries its limits
(``whole``, ``real``, ``choice``, ``switch``, ``words``, ``folder``, ``wholes``, ``reals``).
``Parameters.checked`` stops on an unknown name, a wrong type or an impossible value, in one
sentence that names the parameter and says what is allowed. The checking is pydantic's, strict.
"""

import ast
import contextlib
import difflib
import math
import os
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lib.runs import devices, engines
from lib.runs.places import NoHome, at_home

FULL = "full"
# from the report's own downwards; large is its design on more text
SIZES = (FULL, "large", "third", "tenth", "small", "quick", "tiny")


class ParameterError(ValueError):
    """A parameter that no experiment can run with; the message says what is allowed."""


def typed(text: str, kind: type = object) -> object:
    """A value as it was typed for a parameter of a type: a number, True or False, else text.

    A parameter that is text keeps what was typed, numbers with commas between them too.
    """
    try:
        found = float(text) if kind is float else ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return found if kind is not str or isinstance(found, str) else text


def listed(text: str) -> list[str]:
    """The parts of ``a,b`` as they were typed, without spaces and empty ones."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _span(noun: str, low: float, high: float | None, above: bool) -> str:
    span = f"above {low:g}" if above else f"at least {low:g}"
    return f"allowed: {noun} {span}" + ("" if high is None else f", at most {high:g}")


def _each(kind: type, low: float, high: float | None, above: bool, repeats: bool) -> Any:
    noun = "a whole number" if kind is int else "a finite number"
    example = "'1,2,3'" if kind is int else "'0.5,0.8'"

    def check(value: str) -> str | None:
        try:
            parts = [kind(part) for part in value.split(",")]
        except ValueError:
            return f"allowed: numbers parted by commas, such as {example}"
        if not repeats and len(set(parts)) < len(parts):
            return "allowed: each number once"
        for part in parts:
            inside = kind is int or math.isfinite(part)  # an int may be too long for a float
            inside = inside and part >= low and (high is None or part <= high)
            if not inside or (above and part == low):
                return _span(noun, low, high, above)
        return None

    return check


def whole(default: int, at_least: int, at_most: int | None = None) -> Any:
    """A whole number between two limits, both included."""
    said = {"allowed": _span("a whole number", at_least, at_most, False)}
    return Field(default, ge=at_least, le=at_most, json_schema_extra=said)


def real(
    default: float, at_least: float = 0.0, at_most: float | None = None, above: bool = False
) -> Any:
    """A finite number between two limits; ``above`` excludes the lower one."""
    said = {"allowed": _span("a finite number", at_least, at_most, above)}
    low = {"gt" if above else "ge": at_least}
    return Field(default, **low, le=at_most, allow_inf_nan=False, json_schema_extra=said)


def choice(default: str, options: tuple[str, ...]) -> Any:
    """One of a few words."""

    def check(value: str) -> str | None:
        return None if value in options else f"allowed: {', '.join(options)}"

    return Field(default, json_schema_extra={"check": check, "options": options})


def switch(default: bool) -> Any:
    """True or False."""
    return Field(default)


def words(default: str) -> Any:
    """Any text but a blank one."""
    return Field(default, json_schema_extra={"check": _blank})


def _blank(value: str) -> str | None:
    return None if value.strip() else "allowed: a name"


def folder() -> Any:
    """A folder that exists, or nothing: a typing error must not pass for an absent text."""
    return Field("", json_schema_extra={"check": no_folder})


def no_folder(name: str) -> str | None:
    """What is wrong with the name of a folder; None if it exists or nothing is named."""
    with contextlib.suppress(NoHome, OSError):  # a name may be too long for any folder
        if not name or at_home(name).is_dir():
            return None
    return "there is no such folder; allowed: a folder that exists, or nothing"


def check_environment() -> None:
    """Raises ParameterError for a DEPTH_DATA that is no folder."""
    data = os.environ.get("DEPTH_DATA", "")
    if complaint := no_folder(data):
        raise ParameterError(f"the environment variable DEPTH_DATA is {data!r}; {complaint}.")


def wholes(default: str, at_least: int, at_most: int | None = None) -> Any:
    """A list of different whole numbers written ``"1,3,6"``; ``numbers`` reads it.

    Text, because forms have no lists.
    """
    check = _each(int, at_least, at_most, False, False)
    return Field(default, json_schema_extra={"check": check, "kind": int})


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
    check = _each(float, at_least, at_most, above, repeats)
    return Field(default, json_schema_extra={"check": check, "kind": float})


class Parameters(BaseModel):
    """Base of every experiment's parameters: defaults are the full size.

    ``QUICK`` and ``TINY`` are the overrides that make the quick run and the tests, ``LADDER`` those
    of the sizes between (third, tenth, small); sizes differ in nothing else. ``PLACES`` are fields
    that say where text, base and processes are, not how much is computed: they do not count when
    the size is named. Corpus and base do change the numbers: every row names them.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    QUICK: ClassVar[dict[str, Any]] = {}
    TINY: ClassVar[dict[str, Any]] = {}
    LADDER: ClassVar[dict[str, dict[str, Any]]] = {}
    PLACES: ClassVar[tuple[str, ...]] = (
        "corpus", "data_dir", "base", "device", "workers", "engine",
    )  # fmt: skip

    device: str = choice("auto", devices.DEVICES)
    workers: int = whole(2, 1, 64)
    engine: str = choice("local", tuple(engines.ENGINES))

    @classmethod
    def checked(cls, given: dict[str, Any]) -> Self:
        """Parameters from names and values. Raises ParameterError as said above."""
        try:
            return cls(**given)
        except ValidationError as refusal:
            raise ParameterError(cls._sentence(refusal.errors()[0])) from None

    def check(self) -> None:
        """Rules between parameters; raise ParameterError. Nothing by default."""

    def at_most(self, name: str, other: str, factor: float = 1.0) -> None:
        """Raises ParameterError if a parameter is above ``factor`` times another one."""
        value, most = getattr(self, name), factor * getattr(self, other)
        if value > most:
            times = "" if factor == 1 else f"{factor:g} times "
            raise ParameterError(
                f"parameter {name!r} is {value}; allowed: at most {times}{other!r}, {most:g}"
            )

    @classmethod
    def names(cls) -> list[str]:
        """The names of all parameters, in their order."""
        return list(cls.model_fields)

    @classmethod
    def preset(cls, size: str) -> dict[str, Any]:
        """The overrides that make a size. KeyError for one that the experiment does not have."""
        return {FULL: {}, "quick": cls.QUICK, "tiny": cls.TINY, **cls.LADDER}[size]

    @classmethod
    def at(cls, size: str) -> Self:
        """The parameters of a size. KeyError for one that the experiment does not have."""
        return cls.checked(cls.preset(size))

    @classmethod
    def sizes(cls) -> tuple[str, ...]:
        """The sizes that this experiment has, the largest first."""
        return tuple(size for size in SIZES if size in (FULL, "quick", "tiny", *cls.LADDER))

    @property
    def size(self) -> str:
        """The size whose values these are, else custom."""
        own = self._counted()
        for size in type(self).sizes():
            if type(self).at(size)._counted() == own:
                return size
        return "custom"

    def changed(self, **changes: Any) -> Self:
        """These parameters with some values replaced, checked again."""
        return type(self).checked({**self.model_dump(), **changes})

    def of(self, schema: type["Parameters"]) -> "Parameters":
        """The parameters of another experiment: these where it has them too, else its own."""
        own = self.model_dump()
        return schema.checked({name: own[name] for name in own if name in schema.names()})

    def numbers(self, name: str) -> list[float]:
        """The list that a ``wholes`` or ``reals`` parameter spells."""
        kind = type(self).model_fields[name].json_schema_extra["kind"]
        return [kind(part) for part in getattr(self, name).split(",")]

    def _counted(self) -> dict[str, Any]:
        values = self.model_dump()
        return {name: values[name] for name in values if name not in self.PLACES}

    @field_validator("*", mode="after")
    @classmethod
    def _each_value(cls, value: Any, info: Any) -> Any:
        extra = cls.model_fields[info.field_name].json_schema_extra or {}
        complaint = extra["check"](value) if "check" in extra else None
        if complaint:
            raise ParameterError(complaint)
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        self.check()
        return self

    @classmethod
    def _sentence(cls, error: dict[str, Any]) -> str:
        """One sentence for the first thing that pydantic found wrong."""
        name = str(error["loc"][0]) if error["loc"] else ""
        if error["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, cls.names(), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            return f"unknown parameter {name!r}{hint} Allowed: {', '.join(sorted(cls.names()))}."
        if error["type"] == "value_error":
            said = str(error["ctx"]["error"])
            return f"parameter {name!r} is {error['input']!r}; {said}." if name else said
        field, value = cls.model_fields[name], error["input"]
        if type(value) is not field.annotation and not (
            field.annotation is float and type(value) is int
        ):
            example = "1.0e-3, not 1e-3" if field.annotation is float else repr(field.default)
            return (
                f"parameter {name!r} is {value!r}, of type {type(value).__name__}; allowed: "
                f"a value of type {field.annotation.__name__}, such as {field.default!r}"
                + (f" (in YAML write {example})." if field.annotation is float else ".")
            )
        return f"parameter {name!r} is {value!r}; {field.json_schema_extra['allowed']}."
