"""Embedding images, and scoring pairs and matrices of a request's items."""

import base64
import logging
import time
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter, Request
from jaxtyping import Float32, Int64
from pydantic import BaseModel, Field

from rayreid.ranking.calibration import Decision
from rayreid.serve.bodies import EmbedBody, ItemsBody, MatrixBody, PairsBody, documented
from rayreid.serve.decisions import Thresholds, decide, refuse_unless_calibrated
from rayreid.serve.envelope import ERRORS, Envelope, enveloped, request_id
from rayreid.serve.models import Distinct, Given, Scored, Served, distinct, named
from rayreid.serve.reading import Asked, checked_pairs, read, refuse_unless_item
from rayreid.serve.refusals import RefusalError
from rayreid.serve.service import Service

log = logging.getLogger(__name__)


class EmbeddingAnswer(BaseModel):
    """An embedding; it can be sent back as one of ``embeddings``."""

    fingerprint: str
    shape: list[int]
    data: str = Field(json_schema_extra={"contentEncoding": "base64"})
    """Little-endian 32-bit floats in base64, the last axis fastest."""


class EmbedAnswer(Envelope):
    """An embedding for each image, in order."""

    embeddings: list[EmbeddingAnswer]
    embedded: int
    """Distinct images, each of which was embedded once."""


class PairsAnswer(Envelope):
    """The scores in the order of the pairs; higher = more alike."""

    scores: list[float]
    decisions: list[Decision]
    """Of each pair: match, review (for a person to look at), no_match, or uncalibrated."""
    thresholds: Thresholds
    embedded: int
    """Distinct images, each of which was embedded once."""


class MatrixAnswer(Envelope):
    """The scores, a row a query; higher = more alike."""

    scores: list[list[float]]
    embedded: int
    """Distinct images, each of which was embedded once."""


def router(service: Service) -> APIRouter:
    """Return the routes that match."""
    routes = APIRouter(prefix="/v1", tags=["matching"], responses=ERRORS)

    @routes.post("/embed", openapi_extra=documented(EmbedBody))
    async def embed(request: Request) -> EmbedAnswer:
        """Embed images."""
        started = time.perf_counter()
        asked = await read(request, service.limits, EmbedBody)
        served = named(service.models, asked.body.model)
        items = distinct(asked.images, ())
        if not len(asked):
            raise RefusalError(422, "there are no images to embed")
        reading = time.perf_counter() - started
        result = await service.models.embed(served.name, items.work)
        _refuse_not_finite(request, result.served, result.embeddings, "embedding")
        rows = [
            EmbeddingAnswer(
                fingerprint=result.served.fingerprint,
                shape=list(row.shape),
                data=base64.b64encode(row.astype("<f4", copy=False).tobytes()).decode(),
            )
            for row in result.embeddings
        ]
        return EmbedAnswer(
            **enveloped(request, result.served, {"read": reading, **result.seconds}),
            embeddings=[rows[number] for number in items.number],
            embedded=items.embedded,
        )

    @routes.post("/match/pairs", openapi_extra=documented(PairsBody))
    async def pairs(request: Request) -> PairsAnswer:
        """Score pairs of items."""
        started = time.perf_counter()
        asked = await read(request, service.limits, PairsBody)
        wanted = checked_pairs(asked.body.pairs, len(asked), service.limits)
        served, items = await _items(asked)
        reading = time.perf_counter() - started
        refuse_unless_calibrated(served, asked.body.false_accept_rate)
        scored = await _scored(request, served, items, wanted)
        decided = decide(scored.served, scored.scores, asked.body.false_accept_rate)
        return PairsAnswer(
            **enveloped(request, scored.served, {"read": reading, **scored.seconds}),
            scores=scored.scores.tolist(),
            decisions=decided.decisions,
            thresholds=decided.thresholds,
            embedded=items.embedded,
        )

    @routes.post("/match/matrix", openapi_extra=documented(MatrixBody))
    async def matrix(request: Request) -> MatrixAnswer:
        """Score queries against a gallery, both of this request's items."""
        started = time.perf_counter()
        asked = await read(request, service.limits, MatrixBody)
        rows, columns = asked.body.queries, asked.body.gallery
        cells = len(rows) * len(columns)
        if cells > service.limits.pairs:
            raise RefusalError(
                422,
                f"{len(rows)} queries by {len(columns)} make {cells} cells, more than "
                f"{service.limits.pairs}",
            )
        if not cells:
            raise RefusalError(422, "there are no queries, or no gallery, to score")
        for name, numbers in (("queries", rows), ("gallery", columns)):
            for place, index in enumerate(numbers):
                refuse_unless_item(f"{name}[{place}]", index, len(asked))
        served, items = await _items(asked)
        reading = time.perf_counter() - started
        wanted = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
        scored = await _scored(request, served, items, wanted)
        return MatrixAnswer(
            **enveloped(request, scored.served, {"read": reading, **scored.seconds}),
            scores=scored.scores.reshape(len(rows), len(columns)).tolist(),
            embedded=items.embedded,
        )

    async def _items(asked: Asked[ItemsBody]) -> tuple[Served, Distinct]:
        """Return the model that is asked, and the distinct items it is asked of."""
        served = named(service.models, asked.body.model)
        refuse_others_embeddings(asked.embeddings, served)
        enrolled: Sequence[Given] = ()
        if asked.samples:
            if service.enrolled is None:
                raise RefusalError(422, "this service keeps no galleries, so there are no samples")
            enrolled = await service.enrolled.embeddings(asked.samples, served)
        return served, distinct(asked.images, [*asked.embeddings, *enrolled])

    async def _scored(
        request: Request, served: Served, items: Distinct, pairs: Int64[np.ndarray, "p 2"]
    ) -> Scored:
        scored = await service.models.score(served.name, items.work, items.number[pairs])
        if items.work.embeddings and scored.served.fingerprint != served.fingerprint:
            # The model was replaced while the request was under way.
            raise RefusalError(
                409, f"model {served.name!r} was replaced; its embeddings are of another one now"
            )
        if items.work.embeddings and not np.isfinite(scored.scores).all():
            raise RefusalError(
                422,
                "the scores of these embeddings are no finite numbers: some hold numbers that no "
                "image has; embed the images again",
            )
        _refuse_not_finite(request, scored.served, scored.scores, "score")
        return scored

    return routes


def refuse_others_embeddings(embeddings: Sequence[Given], served: Served) -> None:
    """Raise `RefusalError` for embeddings that are not a model's: 409 by name, 422 by shape."""
    for index, given in enumerate(embeddings):
        if given.fingerprint != served.fingerprint:
            raise RefusalError(
                409,
                f"embeddings[{index}] is of weights {given.fingerprint!r}, and model "
                f"{served.name!r} has {served.fingerprint!r}; embed the image again",
            )
        if given.values.shape != served.embedding:
            raise RefusalError(
                422,
                f"embeddings[{index}] has the shape {list(given.values.shape)}, not "
                f"{list(served.embedding)} as those of model {served.name!r}",
            )


def _refuse_not_finite(
    request: Request, served: Served, values: Float32[np.ndarray, "..."], what: str
) -> None:
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        log.error(
            "request %s: %d of %d numbers (%s) are not finite (model %s, weights %s)",
            request_id(request), len(broken), values.size, what, served.name, served.fingerprint,
        )  # fmt: skip
        raise RefusalError(500, f"the model's {what} {broken[0]} is no finite number")
