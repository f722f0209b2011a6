"""What the routes of galleries answer, as types."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from rayreid.serve.envelope import Answer, Envelope
from rayreid.serve.galleries.records import Gallery


class GalleryAnswer(Answer):
    """One gallery."""

    name: str
    model: str
    """The served model that it was made for."""
    fingerprint: str
    """Of the weights whose embeddings it holds."""
    preprocessing: str
    """Of what images became before they were embedded."""
    embedding: list[int]
    """Shape of an embedding."""
    created: datetime
    version: int
    """Grows with every change."""
    identities: int
    samples: int


class GalleriesAnswer(Answer):
    """A page of galleries."""

    galleries: list[GalleryAnswer]
    next: str | None
    """What ``after`` is for the next page; null where there is none."""


class IdentityAnswer(BaseModel):
    """A person."""

    name: str
    samples: int


class OneIdentityAnswer(Answer, IdentityAnswer):
    """A person, alone."""


class IdentitiesAnswer(Answer):
    """A page of identities."""

    identities: list[IdentityAnswer]
    next: str | None
    """What ``after`` is for the next page; null where there is none."""


class SampleAnswer(BaseModel):
    """An enrolled crop."""

    id: str
    identity: str
    camera: str | None
    time: datetime | None
    tags: list[str]


class SamplesAnswer(Answer):
    """A page of samples."""

    samples: list[SampleAnswer]
    next: str | None
    """What ``after`` is for the next page; null where there is none."""


class EnrolledAnswer(Envelope):
    """That samples are enrolled, on the disk."""

    gallery: str
    version: int
    """Of the gallery, from which on they are found."""
    ids: list[str]
    """Of the samples, in the order of the request."""


class ChangedAnswer(Answer):
    """That something was changed."""

    gallery: str
    version: int
    """Of the gallery, with the change."""


class CheckAnswer(BaseModel):
    """How it was made sure that the store holds no trace."""

    made: str
    searched_bytes: int
    embeddings: int
    texts: int
    elsewhere: int
    """Erased embeddings that are also another sample's, and so still there."""
    remains: list[str]
    """What the store is set up to keep all the same; empty: nothing."""


class ReceiptAnswer(Answer):
    """What a purge erased."""

    gallery: str
    identities: int
    samples: int
    missing: list[str]
    """Names asked for that were not there: erased before, or misspelt."""
    version: int
    check: CheckAnswer
    replicas: int
    """Processes whose memory was brought up to it."""


def told(gallery: Gallery) -> dict[str, Any]:
    """Return the fields of a `GalleryAnswer`."""
    bound = gallery.binding
    return {
        "name": gallery.name,
        "model": bound.model,
        "fingerprint": bound.fingerprint,
        "preprocessing": bound.preprocessing,
        "embedding": list(bound.shape),
        "created": gallery.created,
        "version": gallery.version,
        "identities": gallery.identities,
        "samples": gallery.samples,
    }
