"""Settings: values that are checked when they are made, frozen after, and strict about names."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError


class Settings(BaseModel):
    """A frozen group of settings; the text under a field is its help."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )


def _split(value: object) -> object:
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


Numbers = Annotated[tuple[int, ...], BeforeValidator(_split)]
"""Whole numbers; as text, separated by commas, which is how a search space chooses among lists."""

S = TypeVar("S", bound=Settings)


class FailureError(RuntimeError):
    """What was asked for could not be done, for a reason that the message tells the user."""


def checked(kind: type[S], values: Mapping[str, object], *, below: str = "") -> S:
    """Return ``kind(**values)``; a mistake is a `ValueError` of one sentence each.

    ``below`` is the path that these settings lie at, for the sentences.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError("; ".join(_sentences(kind, error, below))) from None


def _sentences(kind: type[Settings], error: ValidationError, below: str) -> Iterable[str]:
    for mistake in error.errors(include_url=False):
        path = ".".join(str(part) for part in (*filter(None, [below]), *mistake["loc"]))
        if mistake["type"] == "extra_forbidden":
            known = _fields_at(kind, mistake["loc"][:-1])
            yield f"there is no setting {path!r}{_suggestion(str(mistake['loc'][-1]), known)}"
        elif mistake["type"] == "value_error":
            reason = mistake["msg"].removeprefix("Value error, ")
            yield f"setting {path!r}: {reason}" if path else reason
        else:
            reason = mistake["msg"][:1].lower() + mistake["msg"][1:]
            yield f"setting {path!r}: {reason}, found {mistake['input']!r}"


def _fields_at(kind: type[Settings], loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        field = kind.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, Settings)):
            return []
        kind = inner
    return list(kind.model_fields)


def _suggestion(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are {', '.join(known)}" if known else ""


def unknown(what: str, name: str, known: Iterable[str]) -> ValueError:
    """Return the error for a name that is none of the known ones."""
    return ValueError(f"there is no {what} {name!r}{_suggestion(name, known)}")


def parse_assignment(text: str) -> tuple[str, object]:
    """Return the path and the value of ``path=value``, the value read as YAML.

    Raises `ValueError` where there is no ``=``, no path, or no readable value.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ValueError(f"{text!r} is not an assignment; write path=value, e.g. optimiser.lr=1e-3")
    try:
        return path.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(
            f"the value in {text!r} is not readable; quote it or write plain YAML"
        ) from None


def nested(assignments: Mapping[str, object]) -> dict[str, Any]:
    """Return dotted assignments as a tree: ``{"a.b": 1}`` becomes ``{"a": {"b": 1}}``."""
    tree: dict[str, Any] = {}
    for path, value in assignments.items():
        *groups, name = path.split(".")
        node = tree
        for group in groups:
            inner = node.setdefault(group, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{path!r} is set below {group!r}, which is set to a value itself")
            node = inner
        node[name] = value
    return tree


def dotted(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return a tree as dotted assignments, the inverse of `nested`."""
    flat: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= dotted(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def read_yaml(text: str, where: object) -> dict[str, Any]:
    """Return the mapping in a YAML text; ``where`` names it in the error."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where} is not readable as YAML: {reason}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{where} holds {type(tree).__name__}, not settings by name")
    return tree
