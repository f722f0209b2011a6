"""Galleries, their identities and samples: made, enrolled, listed, renamed, merged, erased."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Query, Request

from rayreid.serve.bodies import Name, documented
from rayreid.serve.envelope import ERRORS, Answer, enveloped, request_id
from rayreid.serve.galleries.answers import (
    ChangedAnswer,
    EnrolledAnswer,
    GalleriesAnswer,
    GalleryAnswer,
    IdentitiesAnswer,
    IdentityAnswer,
    OneIdentityAnswer,
    ReceiptAnswer,
    SampleAnswer,
    SamplesAnswer,
    told,
)
from rayreid.serve.galleries.asking import another_models
from rayreid.serve.galleries.bodies import (
    EnrolBody,
    GalleryBody,
    MergeBody,
    PurgeBody,
    RenameBody,
)
from rayreid.serve.galleries.records import Gallery, Removal, Sample, UnreadableError
from rayreid.serve.models import Served, distinct, named
from rayreid.serve.reading import Asked, read
from rayreid.serve.refusals import RefusalError
from rayreid.serve.routes.matching import refuse_others_embeddings
from rayreid.serve.service import Service

T = TypeVar("T")

After = Annotated[str, Query(max_length=128, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Limit = Annotated[int, Query(ge=1, le=1000)]


def router(service: Service) -> APIRouter:
    """Return the routes of galleries; none where the service keeps none."""
    routes = APIRouter(prefix="/v1/galleries", tags=["galleries"], responses=ERRORS)
    if service.enrolled is None:
        return routes
    galleries, limits = service.enrolled, service.limits

    @routes.post("", openapi_extra=documented(GalleryBody), status_code=201)
    async def create(request: Request) -> GalleryAnswer:
        """Make a gallery for the embeddings of one model."""
        body = (await read(request, limits, GalleryBody)).body
        gallery = await galleries.create(body.name, named(service.models, body.model))
        return GalleryAnswer(request_id=request_id(request), **told(gallery))

    @routes.get("")
    async def pages(request: Request, after: After = "", limit: Limit = 100) -> GalleriesAnswer:
        """List galleries by name."""
        page, following = paged(await galleries.page(after, limit + 1), limit)
        own = request_id(request)
        return GalleriesAnswer(
            request_id=own,
            galleries=[GalleryAnswer(request_id=own, **told(one)) for one in page],
            next=following and page[-1].name,
        )

    @routes.get("/{gallery}")
    async def one(request: Request, gallery: Name) -> GalleryAnswer:
        """Tell what a gallery holds."""
        return GalleryAnswer(request_id=request_id(request), **told(await galleries.get(gallery)))

    @routes.delete("/{gallery}")
    async def delete(request: Request, gallery: Name) -> Answer:
        """Do away with a gallery and all that is in it, physically."""
        await galleries.delete(gallery)
        return Answer(request_id=request_id(request))

    @routes.post("/{gallery}/samples", openapi_extra=documented(EnrolBody), status_code=201)
    async def enrol(request: Request, gallery: Name) -> EnrolledAnswer:
        """Enrol crops; they are on the disk when this is answered, and found by any search then."""
        started = time.perf_counter()
        asked = await read(request, limits, EnrolBody)
        samples = _samples(asked)
        there = await galleries.get(gallery)
        served = model_of(service, there, asked.body.model)
        refuse_others_embeddings(asked.embeddings, served)
        seconds, embeddings = {"read": time.perf_counter() - started}, []
        if asked.images:
            items = distinct(asked.images, ())
            made = await service.models.embed(served.name, items.work)
            served, seconds = made.served, {**seconds, **made.seconds}
            embeddings = [made.embeddings[number] for number in items.number]
        embeddings += [given.values for given in asked.embeddings]
        rows: np.ndarray = np.stack(embeddings)
        storing = time.perf_counter()
        version = await galleries.enrol(gallery, samples, rows, served)
        seconds["store"] = time.perf_counter() - storing
        return EnrolledAnswer(
            **enveloped(request, served, seconds),
            gallery=gallery,
            version=version,
            ids=[sample.id for sample in samples],
        )

    @routes.get("/{gallery}/samples")
    async def samples(
        request: Request,
        gallery: Name,
        identity: Annotated[Name | None, Query()] = None,
        after: After = "",
        limit: Limit = 100,
    ) -> SamplesAnswer:
        """List samples by id: all, or an identity's."""
        found = await galleries.samples(gallery, identity, after, limit + 1)
        page, following = paged(found, limit)
        return SamplesAnswer(
            request_id=request_id(request),
            samples=[SampleAnswer(**asdict(sample)) for sample in page],
            next=following and page[-1].id,
        )

    @routes.delete("/{gallery}/samples/{sample}")
    async def delete_sample(request: Request, gallery: Name, sample: Name) -> ChangedAnswer:
        """Make a sample invisible at once; a purge makes it physically gone."""
        return changed(request, gallery, await galleries.remove(gallery, Removal((), (sample,))))

    @routes.get("/{gallery}/identities")
    async def identities(
        request: Request, gallery: Name, after: After = "", limit: Limit = 100
    ) -> IdentitiesAnswer:
        """List identities by name."""
        page, following = paged(await galleries.identities(gallery, after, limit + 1), limit)
        return IdentitiesAnswer(
            request_id=request_id(request),
            identities=[IdentityAnswer(**asdict(identity)) for identity in page],
            next=following and page[-1].name,
        )

    @routes.get("/{gallery}/identities/{identity}")
    async def identity(request: Request, gallery: Name, identity: Name) -> OneIdentityAnswer:
        """Tell how many samples an identity has."""
        found = await galleries.identity(gallery, identity)
        return OneIdentityAnswer(request_id=request_id(request), **asdict(found))

    @routes.patch("/{gallery}/identities/{identity}", openapi_extra=documented(RenameBody))
    async def rename(request: Request, gallery: Name, identity: Name) -> ChangedAnswer:
        """Give an identity another name."""
        body = (await read(request, limits, RenameBody)).body
        return changed(request, gallery, await galleries.rename(gallery, identity, body.name))

    @routes.post("/{gallery}/identities/{identity}/merge", openapi_extra=documented(MergeBody))
    async def merge(request: Request, gallery: Name, identity: Name) -> ChangedAnswer:
        """Give an identity's samples to another one, which it is."""
        body = (await read(request, limits, MergeBody)).body
        return changed(request, gallery, await galleries.merge(gallery, identity, body.into))

    @routes.delete("/{gallery}/identities/{identity}")
    async def delete_identity(request: Request, gallery: Name, identity: Name) -> ChangedAnswer:
        """Make an identity invisible at once; a purge makes it physically gone."""
        return changed(request, gallery, await galleries.remove(gallery, Removal((identity,))))

    @routes.post("/{gallery}/purge", openapi_extra=documented(PurgeBody))
    async def purge(request: Request, gallery: Name) -> ReceiptAnswer:
        """Erase samples, identities, or everybody, without a trace; the receipt tells how."""
        body = (await read(request, limits, PurgeBody)).body
        removal = Removal(tuple(body.identities), tuple(body.samples), body.all)
        receipt, replicas = await galleries.purge(gallery, removal)
        return ReceiptAnswer(request_id=request_id(request), replicas=replicas, **asdict(receipt))

    return routes


def model_of(service: Service, gallery: Gallery, name: str | None) -> Served:
    """Return the served model of a gallery's embeddings.

    Raises `RefusalError` 404 for a name that is none, 409 where the named one, or every one, is
    another.
    """
    bound = gallery.binding
    asked = list(service.models.served.values()) if name is None else [named(service.models, name)]
    for served in asked:
        if (served.fingerprint, served.preprocessing) == (bound.fingerprint, bound.preprocessing):
            return served
    raise RefusalError(409, another_models(gallery.name, bound, asked[0]))


def paged(found: Sequence[T], limit: int) -> tuple[Sequence[T], str | None]:
    """Return a page, and, of one more than it, whether there is another: a text, or None."""
    return found[:limit], "more" if len(found) > limit else None


def changed(request: Request, gallery: str, version: int) -> ChangedAnswer:
    """Return the answer to a change."""
    return ChangedAnswer(request_id=request_id(request), gallery=gallery, version=version)


def _samples(asked: Asked[EnrolBody]) -> list[Sample]:
    """Return the samples that a request enrols; raises `RefusalError` 422."""
    body, count = asked.body, len(asked)
    if not count:
        raise RefusalError(422, "there are no images, and no embeddings, to enrol")
    ids = body.ids or [uuid.uuid4().hex for _ in range(count)]
    columns: dict[str, Sequence[Any]] = {
        "identities": body.identities,
        "cameras": [None] * count if body.cameras is None else body.cameras,
        "times": [None] * count if body.times is None else body.times,
        "tags": [()] * count if body.tags is None else body.tags,
        "ids": ids,
    }
    for name, values in columns.items():
        if len(values) != count:
            raise RefusalError(422, f"there are {len(values)} {name} for {count} crops")
    try:
        return [
            Sample(one, identity, camera, when, tuple(tags))
            for identity, camera, when, tags, one in zip(*columns.values(), strict=True)
        ]
    except UnreadableError as error:
        raise RefusalError(422, error.sentence) from None
