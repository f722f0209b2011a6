"""What requests about galleries hold, as types."""

from typing import Literal

from pydantic import AwareDatetime, Field

from rayreid.serve.bodies import Body, EmbeddingBody, ImagesBody, ItemsBody, Name


class GalleryBody(Body):
    """A gallery to make."""

    name: Name
    model: str | None = None
    """Name of the served model whose embeddings it is to hold; by default the first."""


class EnrolBody(ImagesBody):
    """Crops to enrol: images, or embeddings of them, and who they show, one by one."""

    embeddings: list[EmbeddingBody] = Field([])
    """As /v1/embed returned them; they follow the images."""
    identities: list[Name]
    """Who each shows."""
    cameras: list[Name | None] | None = None
    times: list[AwareDatetime | None] | None = None
    """When each was taken, in ISO 8601 with a zone."""
    tags: list[list[Name]] | None = None
    ids: list[Name] | None = None
    """Names of the samples, so that a request that is sent again is refused (409) where it was
    done; by default new ones."""


class RenameBody(Body):
    """Another name of an identity."""

    name: Name


class MergeBody(Body):
    """The identity that another one is."""

    into: Name


class PurgeBody(Body):
    """What to erase; what was deleted before is erased with it in any case."""

    identities: list[Name] = Field([])
    samples: list[Name] = Field([])
    all: bool = False
    """Everybody in the gallery."""


class FiltersBody(Body):
    """Which samples are searched: those of which all of this is true."""

    cameras: list[Name] | None = None
    """Taken by one of these."""
    since: AwareDatetime | None = Field(None, alias="from")
    """Taken at this time or later."""
    until: AwareDatetime | None = Field(None, alias="to")
    """Taken before this time."""
    tags: list[Name] = Field([])
    """With all of these."""


class SearchBody(ItemsBody):
    """Queries to search a gallery for."""

    gallery: Name
    queries: list[list[int]] | None = None
    """Numbers of the items that show one person, a list a query; by default each item alone."""
    top_k: int | None = Field(None, ge=1)
    """Most identities of an answer."""
    shortlist: int | None = Field(None, ge=1)
    """Samples that are scored exactly."""
    fusion: Literal["mean", "max"] | None = None
    """Score of a sample with several crops: the mean of theirs, or the highest."""
    filters: FiltersBody = FiltersBody()
    false_positive_identification_rate: float | None = Field(None, gt=0, lt=1)
    """Rate of searches for people who are not enrolled that are to find somebody all the same; by
    default the calibration's."""
