"""What a gallery is made of, and what can be wrong with asking for it."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import Field

from rayreid.settings import Settings

NAME_LENGTH = 128
"""Most characters of a name: a gallery's, identity's, sample's, camera's or tag's."""


class GalleryLimits(Settings):
    """How much a store of galleries may hold."""

    galleries: int = Field(1000, ge=1)
    """Most galleries of a store."""
    samples: int = Field(1_000_000, ge=1)
    """Most samples of a gallery."""
    gallery_bytes: int = Field(8 * 2**30, ge=1)
    """Most bytes of a gallery's embeddings, as they are stored; what is held to search them may be
    up to twice as much."""
    tags: int = Field(16, ge=0)
    """Most tags of a sample."""


class GalleryError(Exception):
    """Why a gallery cannot be had as asked, in one sentence."""

    def __init__(self, sentence: str):
        super().__init__(sentence)
        self.sentence = sentence


class UnreadableError(GalleryError):
    """What was asked makes no sense as it is: a name, a number, a shape."""


class MissingError(GalleryError):
    """There is no such gallery, identity or sample."""


class ConflictError(GalleryError):
    """What was asked contradicts what is there: an id that is taken, a model that is another."""


class FullError(GalleryError):
    """There is no room: on the disk, or within the limits. Nothing was written."""


class BrokenError(GalleryError):
    """What is stored is not what was written."""


class UnavailableError(GalleryError):
    """The store is busy, or its server does not answer."""


@dataclass(frozen=True)
class Binding:
    """Whose embeddings a gallery holds: weights, preprocessing, and the shape of one."""

    model: str
    fingerprint: str
    preprocessing: str
    shape: tuple[int, ...]

    def refuse_other(self, gallery: str, fingerprint: str, preprocessing: str) -> None:
        """Raise `ConflictError` for embeddings of other weights, or of other preprocessing."""
        for what, own, other in (
            ("weights", self.fingerprint, fingerprint),
            ("preprocessing", self.preprocessing, preprocessing),
        ):
            if own != other:
                raise ConflictError(
                    f"the gallery {gallery!r} holds embeddings of {what} {own}, not {other}; "
                    "use its model, or enrol into a new gallery"
                )


@dataclass(frozen=True)
class Gallery:
    """A gallery as it was at one version."""

    name: str
    binding: Binding
    created: datetime
    version: int
    """Grows with every change."""
    identities: int
    samples: int


@dataclass(frozen=True)
class Identity:
    """A person: there as long as one sample of them is."""

    name: str
    samples: int


@dataclass(frozen=True)
class Sample:
    """One enrolled crop, less its embedding. Raises `UnreadableError` for what is no name."""

    id: str
    identity: str
    camera: str | None = None
    time: datetime | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checked_path_name("a sample's id", self.id)
        checked_path_name("an identity", self.identity)
        if self.camera is not None:
            checked_name("a camera", self.camera)
        if self.time is not None and self.time.tzinfo is None:
            raise UnreadableError(f"the time of sample {self.id!r} names no zone; end it with Z")
        try:
            _ = self.time and self.time.astimezone(UTC)
        except OverflowError:
            raise UnreadableError(
                f"the time of sample {self.id!r} is outside of the years 1 to 9999 in UTC"
            ) from None
        for tag in self.tags:
            checked_name("a tag", tag)


@dataclass(frozen=True)
class Removal:
    """What is to be removed of a gallery; names that are not there are counted, not refused."""

    identities: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()
    everything: bool = False


@dataclass(frozen=True)
class Check:
    """How it was made sure that a store holds no trace."""

    made: str
    """What was done and looked at, in a sentence."""
    searched_bytes: int
    """Bytes of files that were read for it."""
    embeddings: int
    """Erased embeddings that were looked for, piece by piece."""
    texts: int
    """Erased names and tags that were looked for: those told from chance, and used by no other."""
    elsewhere: int
    """Erased embeddings that are also another sample's, and so still there."""
    remains: tuple[str, ...] = ()
    """What the engine was found to keep all the same, a sentence each."""


@dataclass(frozen=True)
class Receipt:
    """What a purge erased."""

    gallery: str
    identities: int
    samples: int
    missing: tuple[str, ...]
    """Names asked for that were not there: erased before, or misspelt."""
    version: int
    check: Check


def checked_path_name(what: str, text: str) -> str:
    """Return a text that can be a name in a URL's path; `UnreadableError` for one that cannot."""
    if "/" in text or text in (".", ".."):
        raise UnreadableError(f"{what} is {text[:64]!r}, which no URL can name; use no '/'")
    return checked_name(what, text)


def checked_name(what: str, text: str) -> str:
    """Return a text that can be a name; `UnreadableError` for one that cannot."""
    if not 1 <= len(text) <= NAME_LENGTH:
        raise UnreadableError(f"{what} has {len(text)} characters; give 1 to {NAME_LENGTH}")
    # Cc, Cs: controls, and halves of a pair that are no character and cannot be encoded.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise UnreadableError(f"{what} holds a control character; leave it out")
    return text


def refuse_repeated(ids: Sequence[str]) -> None:
    """Raise `ConflictError` where an id comes twice."""
    repeated = first_repeated(ids)
    if repeated is not None:
        raise ConflictError(f"the sample {repeated!r} comes twice; give each its own id")


def first_repeated(texts: Iterable[str]) -> str | None:
    """Return the first text that was there before, if any."""
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            return text
        seen.add(text)
    return None
