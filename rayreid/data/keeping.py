"""Keeping: encoded crops are decoded once, into memory or into the cache that a node shares."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import PIL
import torch
from jaxtyping import UInt8
from pydantic import Field, field_validator

from rayreid.batch import Picture
from rayreid.data.cache import NONE, VARIABLE, PixelCache, Write, cache_place
from rayreid.data.content import content_hashes, joint_hash
from rayreid.data.decoding import Broken, decode_all
from rayreid.data.packed import PackedPicture, by_shard
from rayreid.settings import Settings

log = logging.getLogger(__name__)

DECODER = f"1, torch {torch.__version__}, Pillow {PIL.__version__}"
"""What decides on pixels, beside the encoded image: part of their key in the cache."""

MOST_BROKEN = 0.05
"""Share of a part's crops that may be left out. A few damaged files among thousands do not show in
a figure; more than one in twenty is a damaged download, or a disk that fails, and does."""

_AT_ONCE = 2**26
"""Bytes of pixels that are decoded at a time, on their way to the cache."""

Encoded = Sequence[Path | Picture]


class LoadingSettings(Settings):
    """Resolution of the crops, and how they come into memory."""

    height: int = Field(256, ge=16, le=2048)
    """Height that crops are resized to, in pixels."""
    width: int = Field(128, ge=16, le=2048)
    """Width that crops are resized to, in pixels."""
    memory_gib: float = Field(4.0, ge=0)
    """A part of a domain (training, query or gallery crops) is kept decoded in memory up to this
    size, in GiB; a larger one in the cache."""
    cache: str = ""
    """Folder for decoded crops, best on a disk of the node; empty = below ~/.cache, and only for
    what does not fit into memory or comes packed; none = no cache, and such crops are decoded as
    they are read. RAYREID_CACHE in a node's environment counts before it."""
    cache_gib: float = Field(64.0, gt=0)
    """Size of the cache, in GiB; what was not used for longest makes room."""
    on_error: Literal["fail", "skip"] = "fail"
    """What a crop that cannot be decoded does: end the run, or be left out and counted."""

    workers: int = Field(0, ge=0, le=64)
    """Loader processes; 0 reads in the training process, enough where crops are kept."""

    @field_validator("cache")
    @classmethod
    def _one_on_all_nodes(cls, value: str) -> str:
        # Workers have other working directories; each node has its own home.
        return value if value in ("", NONE) or value[0] == "~" else str(Path(value).absolute())


class Kept(NamedTuple):
    """Pixels of encoded images, in order, without those that cannot be decoded."""

    pixels: UInt8[np.ndarray, "n h w 3"]
    broken: list[Broken]


def keep(
    images: Encoded,
    what: str,
    settings: LoadingSettings,
    progress: Callable[[int], None] | None,
) -> Kept | None:
    """Return the pixels of some images, or None where they are to be decoded as they are read.

    ``what`` names them. Raises `ValueError` where they can neither be kept nor decoded so, what
    decoding raises, and what the cache does.
    """
    place = cache_place(settings.cache)
    size = len(images) * settings.height * settings.width * 3
    fits, packed = size <= settings.memory_gib * 2**30, isinstance(images[0], PackedPicture)
    large = f"{what} take {size / 2**30:.1f} GiB decoded, more than loading.memory_gib"
    if place and (place.chosen or packed or not fits):
        if not fits and not place.chosen:
            log.warning("%s: they are kept in %s", large, place.folder)
        hashes = content_hashes(images, place.hashes)
        pixels = f"{joint_hash(hashes)} {settings.height}x{settings.width} {DECODER}"
        key = hashlib.sha256(pixels.encode()).hexdigest()[:32]
        return _in_cache(images, settings, key, progress)
    if fits:
        return _in_memory(images, settings, progress)
    if packed or settings.on_error == "skip":
        reason = "crops of a packed set" if packed else "to know which cannot be decoded, they"
        raise ValueError(
            f"{large}, and {reason} are decoded before training: raise it, or allow a cache "
            f"(loading.cache, or {VARIABLE} in the environment)"
        )
    log.warning("%s, and there is no cache: decoding them as they are read", large)
    return None


def _in_memory(
    images: Encoded, settings: LoadingSettings, progress: Callable[[int], None] | None = None
) -> Kept:
    pixels = np.empty((len(images), settings.height, settings.width, 3), np.uint8)
    rows = 0

    def write(some: UInt8[np.ndarray, "n h w 3"]) -> None:
        nonlocal rows
        pixels[rows : rows + len(some)] = some
        rows += len(some)

    broken = _decode(images, settings, write, progress)
    return Kept(pixels[:rows], broken)


def _in_cache(
    images: Encoded,
    settings: LoadingSettings,
    key: str,
    progress: Callable[[int], None] | None = None,
) -> Kept:
    place = cache_place(settings.cache)
    if place is None:  # on this node; the pixels were asked for on another
        return _in_memory(images, settings, progress)
    told = 0

    def tell(more: int) -> None:
        nonlocal told
        told += more
        if progress:
            progress(more)

    def fill(write: Write) -> list[tuple[int, str]]:
        return [(b.index, b.reason) for b in _decode(images, settings, write, tell)]

    cache = PixelCache(place.folder, int(settings.cache_gib * 2**30))
    shape = (len(images), settings.height, settings.width, 3)
    pixels, note = cache.entry(key, shape, fill)
    tell(len(images) - told)
    broken = [Broken(index, reason) for index, reason in note]
    if broken and settings.on_error == "fail":
        raise ValueError(broken[0].reason)
    pixels.made_by = (_remade, (images, settings, key))
    return Kept(pixels, broken)


def _remade(images: Encoded, settings: LoadingSettings, key: str) -> UInt8[np.ndarray, "n h w 3"]:
    return _in_cache(images, settings, key).pixels


def _decode(
    images: Encoded,
    settings: LoadingSettings,
    write: Write,
    progress: Callable[[int], None] | None,
) -> list[Broken]:
    """Give the pixels of all images to ``write``, in order; return those left out."""
    broken: list[Broken] = []
    done = 0
    for some in by_shard(images, max(1, _AT_ONCE // (settings.height * settings.width * 3))):
        failed: list[Broken] | None = [] if settings.on_error == "skip" else None
        pixels = decode_all(some, settings.height, settings.width, progress=progress, broken=failed)
        write(np.delete(pixels, [f.index for f in failed], axis=0) if failed else pixels)
        broken += [Broken(done + f.index, f.reason) for f in failed or ()]
        done += len(some)
    if len(broken) > MOST_BROKEN * len(images):
        raise ValueError(
            f"{len(broken)} of {len(images)} crops cannot be decoded, more than the "
            f"{MOST_BROKEN:.0%} that may be left out: the set is damaged, get it again (the first: "
            f"{broken[0].reason})"
        )
    return broken
