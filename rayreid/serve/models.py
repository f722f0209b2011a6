"""Served models as the routes see them: what they are, what they are asked, what they answer.

Nothing here knows of Ray or of HTTP.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int64

from rayreid.checkpoint import Trained, load_trained, preprocessing_fingerprint
from rayreid.data.views import as_images
from rayreid.explain import Explained
from rayreid.ranking.calibration import Calibration, calibration_path
from rayreid.results import fetched
from rayreid.serve.refusals import RefusalError


@dataclass(frozen=True)
class Served:
    """One model that is served; whatever it answers carries this."""

    name: str
    method: str
    fingerprint: str
    """Short hash of the weights."""
    preprocessing: str
    """Short hash of how an image becomes the method's input."""
    height: int
    width: int
    embedding: tuple[int, ...]
    """Shape of an image's embedding."""
    on_demand: bool = False
    calibration: Calibration | None = None
    """What its scores mean, where that was measured."""


@dataclass(frozen=True, eq=False)
class Given:
    """An embedding that came with a request, and what it says it was made by."""

    fingerprint: str
    values: Float32[np.ndarray, "*e"]


@dataclass(frozen=True, eq=False)
class Work:
    """n distinct items of one request: first encoded images, then embeddings.

    ``keys`` tell items apart wherever they come from: equal keys, equal contents. ``names`` are
    what the sentence about an image that cannot be decoded calls it.
    """

    keys: tuple[str, ...]
    images: tuple[bytes, ...] = ()
    names: tuple[str, ...] = ()
    embeddings: tuple[Float32[np.ndarray, "*e"], ...] = ()


@dataclass(frozen=True)
class Batch:
    """One batch that a model computed: ``embed`` or ``score``, of how many, in which time."""

    stage: str
    size: int
    seconds: float


@dataclass(frozen=True)
class Report:
    """What a replica did since its last answer; each thing is reported once."""

    batches: tuple[Batch, ...] = ()
    load_seconds: float | None = None
    """How long the model took to load, in a replica's first report."""
    waiting: int = 0
    """Images and requests that wait for a batch in the replica."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embeddings of a request's images, by which model, and the seconds of the stages."""

    served: Served
    embeddings: Float32[np.ndarray, "n *e"]
    seconds: Mapping[str, float]
    report: Report = Report()


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of a request's pairs or matrix, by which model, and the seconds of the stages."""

    served: Served
    scores: Float32[np.ndarray, "*shape"]
    seconds: Mapping[str, float]
    report: Report = Report()


@dataclass(frozen=True, eq=False)
class Explaining:
    """What a pair's score comes from, by which model, and the seconds of the stages."""

    served: Served
    explained: Explained
    png: bytes | None
    """As a picture, where that was asked for."""
    seconds: Mapping[str, float]
    report: Report = Report()


@dataclass(frozen=True)
class State:
    """Whether a model is there: how many replicas hold it, and why not more."""

    replicas: int
    reason: str = ""


@runtime_checkable
class Models(Protocol):
    """The models of a service.

    What is awaited may raise `RefusalError`: 503 where there is no room or no replica, 422 for an
    image that is none.
    """

    served: Mapping[str, Served]
    """By name; the first is the default."""

    async def embed(self, name: str, work: Work) -> Embedded:
        """Return the embeddings of a request's images."""

    async def score(self, name: str, work: Work, pairs: Int64[np.ndarray, "p 2"]) -> Scored:
        """Return the scores of some pairs of a request's items."""

    async def explain(
        self, name: str, work: Work, pair: tuple[int, int], *, lines: int, drawn: bool
    ) -> Explaining:
        """Return what the score of two of a request's images comes from."""

    async def states(self) -> Mapping[str, State]:
        """Return the state of each model."""


def named(models: Models, name: str | None) -> Served:
    """Return the model of a name, or the default. Raises `RefusalError` 404."""
    if name is None:
        return next(iter(models.served.values()))
    if name not in models.served:
        there = ", ".join(models.served)
        raise RefusalError(404, f"there is no model {name[:64]!r}; there are {there}")
    return models.served[name]


def describe(
    name: str,
    trained: Trained,
    *,
    on_demand: bool = False,
    calibration: Calibration | None = None,
) -> Served:
    """Return what a trained method is as a served model."""
    loading = trained.experiment.loading
    device = next(trained.method.parameters()).device
    blank = torch.zeros((1, loading.height, loading.width, 3), dtype=torch.uint8, device=device)
    with torch.inference_mode():
        shape = tuple(trained.method.embed(as_images(blank)).shape[1:])
    return Served(
        name,
        trained.experiment.method,
        trained.fingerprint,
        preprocessing_fingerprint(trained.experiment),
        loading.height,
        loading.width,
        shape,
        on_demand,
        calibration,
    )


def calibration_of(run: Path, trained: Trained) -> Calibration | None:
    """Return the calibration of a run, if it has one.

    Raises `ValueError` for one that is broken, or of other weights: its thresholds would lie.
    """
    if not calibration_path(run).is_file():
        return None
    preprocessing = preprocessing_fingerprint(trained.experiment)
    return Calibration.load(run, fingerprint=trained.fingerprint, preprocessing=preprocessing)


def load(run: str, expected: Served) -> Trained:
    """Return the trained run of a served model.

    Raises `FileNotFoundError` or `ValueError` where it is no longer there, broken, or another.
    """
    trained = load_trained(fetched(run, expected.fingerprint))
    if trained.fingerprint != expected.fingerprint:
        raise ValueError(
            f"{run} holds weights {trained.fingerprint}, not {expected.fingerprint} as when the "
            "service was started; start it again"
        )
    return trained


def contents_key(contents: bytes) -> str:
    """Return what tells contents apart."""
    return hashlib.sha256(contents).hexdigest()


def embeddings_key(given: Given) -> str:
    """Return what tells embeddings apart."""
    return "e" + contents_key(given.values.tobytes())


@dataclass(frozen=True, eq=False)
class Distinct:
    """The distinct items of a request, and for each of its items which of them it is."""

    work: Work
    number: Int64[np.ndarray, " n"]
    embedded: int = field(default=0)
    """How many of them are images, each to be embedded once."""


def distinct(images: Sequence[bytes], embeddings: Sequence[Given]) -> Distinct:
    """Return a request's items with each distinct one once, images first."""
    keys = [contents_key(image) for image in images]
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    image_keys = list(dict.fromkeys(keys))
    keys += [embeddings_key(given) for given in embeddings]
    by_key = {key: given.values for key, given in zip(keys[len(images) :], embeddings, strict=True)}
    order = {key: number for number, key in enumerate([*image_keys, *by_key])}
    work = Work(
        keys=tuple(order),
        images=tuple(images[first[key]] for key in image_keys),
        names=tuple(f"images[{first[key]}]" for key in image_keys),
        embeddings=tuple(by_key.values()),
    )
    return Distinct(work, np.array([order[key] for key in keys], np.int64), len(image_keys))
