"""What the service answers, as values."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Embedding:
    """An image's embedding as the service gave it; it can be sent back instead of the image."""

    fingerprint: str
    """Short hash of the weights that made it."""
    shape: list[int]
    data: str
    """Little-endian 32-bit floats in base64, the last axis fastest."""


@dataclass(frozen=True)
class Sample:
    """An enrolled sample, by its gallery and id."""

    gallery: str
    sample: str


@dataclass(frozen=True)
class OfModel:
    """What every answer of a model says of how it was made."""

    model: str
    fingerprint: str
    preprocessing: str
    request_id: str
    timings_ms: dict[str, float]


@dataclass(frozen=True)
class Embedded(OfModel):
    """An embedding for each image."""

    embeddings: list[Embedding]
    embedded: int


@dataclass(frozen=True)
class Thresholds:
    """What decisions are by; all is None, and there is a reason, where nothing is decided."""

    false_accept_rate: float | None = None
    false_positive_identification_rate: float | None = None
    match: float | None = None
    """Scores above it are matches."""
    review: float | None = None
    """Other scores above it are for a person to look at."""
    rate_bounds: list[float] | None = None
    """95 % bounds of the rate."""
    reason: str = ""


@dataclass(frozen=True)
class Pairs(OfModel):
    """A score for each pair, higher = more alike, and what that decides."""

    scores: list[float]
    decisions: list[str]
    """Of each pair: match, review, no_match, or uncalibrated."""
    thresholds: Thresholds
    embedded: int


@dataclass(frozen=True)
class Matrix(OfModel):
    """Scores, a row a query."""

    scores: list[list[float]]
    embedded: int


@dataclass(frozen=True)
class Match:
    """One identity that a query may show, by its best sample."""

    identity: str
    sample: str
    score: float
    decision: str
    camera: str | None = None
    time: str | None = None
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Found:
    """What a gallery holds for one query, best first."""

    decision: str
    """Of the best match: match, review, no_match, or uncalibrated."""
    matches: list[Match]
    searched: int
    """Samples that the filters left to search."""
    thresholds: Thresholds


@dataclass(frozen=True)
class Search(OfModel):
    """What a gallery holds for each query, at one version of it."""

    results: list[Found]
    gallery: str
    snapshot: int
    enrolled: dict[str, int]
    threshold: float | None = None


@dataclass(frozen=True)
class Explanation(OfModel):
    """Where the score of a pair comes from."""

    explanation: dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A served model."""

    name: str
    method: str
    fingerprint: str
    preprocessing: str
    input: list[int]
    embedding: list[int]
    on_demand: bool
    loaded: bool
    replicas: int
    reason: str = ""
    calibration: dict[str, Any] | None = None


@dataclass(frozen=True)
class Gallery:
    """What a gallery holds, and whose embeddings."""

    name: str
    model: str
    fingerprint: str
    preprocessing: str
    embedding: list[int]
    """Shape of an embedding."""
    created: str
    version: int
    """Grows with every change."""
    identities: int
    samples: int


@dataclass(frozen=True)
class Enrolled(OfModel):
    """The ids of what was enrolled, and the gallery's version that has it."""

    gallery: str
    version: int
    ids: list[str]


@dataclass(frozen=True)
class Identity:
    """An enrolled identity."""

    name: str
    samples: int


@dataclass(frozen=True)
class EnrolledSample:
    """What is known of an enrolled sample."""

    id: str
    identity: str
    camera: str | None = None
    time: str | None = None
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Receipt:
    """What was erased, and what a search of every byte of the store found left of it."""

    gallery: str
    identities: int
    samples: int
    version: int
    check: dict[str, Any]
    missing: list[str] = dataclasses.field(default_factory=list)
    replicas: int = 0


def made(kind: type[T], tree: Mapping[str, Any]) -> T:
    """Return a value of JSON; what a newer service tells beside is left alone."""
    assert dataclasses.is_dataclass(kind)
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    values = {name: _made(hints[name], value) for name, value in tree.items() if name in known}
    result: T = kind(**values)
    return result


def _made(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return made(hint, value)
    if typing.get_origin(hint) is list and isinstance(value, list):
        (inner,) = typing.get_args(hint)
        return [_made(inner, one) for one in value]
    if isinstance(hint, types.UnionType) and value is not None:
        return _made(typing.get_args(hint)[0], value)
    return value
