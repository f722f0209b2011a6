"""Loading: from labelled crops to uint8 pixels in memory, and to batches."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch.utils.data import DataLoader, Dataset

from rayreid.batch import Census, Crops, Domain, Images
from rayreid.data.decoding import decode_all
from rayreid.data.keeping import Kept, keep
from rayreid.data.keeping import LoadingSettings as LoadingSettings

log = logging.getLogger(__name__)


def decoded(
    domain: Domain,
    settings: LoadingSettings,
    progress: Callable[[int], None] | None = None,
    *,
    parts: Sequence[str] = ("train", "query", "gallery"),
) -> Domain:
    """Return the domain with the crops of some parts decoded, in memory or in the cache.

    A part that fits is decoded into memory. A larger one, one of a packed set, and every one
    where a folder for the cache was chosen, is a memory map there, which the processes of a node
    share. ``progress`` is called with the number of crops done since its last call.

    Raises what decoding raises; with ``on_error=skip`` crops that cannot be decoded are left out
    instead, and `ValueError` says where they are too many.
    """

    def pixels_of(part: str) -> Crops:
        crops: Crops = getattr(domain, part)
        if part not in parts or not len(crops) or isinstance(crops.images, np.ndarray):
            return crops
        what = f"{len(crops)} {part} crops of {crops.domain}"
        kept = keep(crops.images, what, settings, progress)
        if kept is None:
            return crops
        if kept.broken:
            reason = kept.broken[0].reason
            log.warning("%d of %s are left out, the first: %s", len(kept.broken), what, reason)
        return _with_pixels(crops, kept)

    train, query, gallery = map(pixels_of, ("train", "query", "gallery"))
    return replace(domain, train=train, query=query, gallery=gallery)


def _with_pixels(crops: Crops, kept: Kept) -> Crops:
    """Return decoded crops, without the labels of those that were left out."""
    whole = np.ones(len(crops), bool)
    whole[[one.index for one in kept.broken]] = False
    return replace(
        crops,
        images=kept.pixels,
        identities=crops.identities[whole],
        cameras=crops.cameras[whole],
        times=None if crops.times is None else crops.times[whole],
    )


class Pixels:
    """The crops of a set at one resolution, by index; files are decoded as they are read."""

    def __init__(self, images: Images, settings: LoadingSettings):
        self.settings, self.images = settings, images

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.images)

    def __getitem__(self, indices: Int64[np.ndarray, " b"]) -> UInt8[np.ndarray, "b h w 3"]:
        """Return the pixels of some crops."""
        if isinstance(self.images, np.ndarray):
            chosen: UInt8[np.ndarray, "b h w 3"] = np.asarray(self.images[indices])
            return chosen
        encoded = [self.images[i] for i in indices]
        return decode_all(encoded, self.settings.height, self.settings.width)


class TrainingSet(Dataset[tuple[torch.Tensor, ...]]):
    """The training crops of all sources under one numbering of identities and domains.

    Indexing with an array gives uint8 pixels [b, h, w, 3] and the labels of `Batch`.
    Raises `ValueError` for a source without crops to learn from.
    """

    def __init__(self, sources: Sequence[Domain], settings: LoadingSettings):
        self.names = tuple(source.name for source in sources)
        identities, cameras, domains = [], [], []
        counts: dict[str, int] = {}
        for d, source in enumerate(sources):
            if not len(source.train):
                raise ValueError(
                    f"source {source.name} has no crops to learn from (no training split); "
                    "it can only be a target"
                )
            people, labels = np.unique(source.train.identities, return_inverse=True)
            identities.append(labels.astype(np.int64) + sum(counts.values()))
            cameras.append(source.train.cameras)
            domains.append(np.full(len(labels), d))
            counts[source.name] = len(people)
        self.census = Census(counts)
        self.identities = np.concatenate(identities)
        self.cameras, self.domains = np.concatenate(cameras), np.concatenate(domains)
        self.pixels = [Pixels(source.train.images, settings) for source in sources]
        self.starts = np.cumsum([0, *(len(part) for part in self.pixels)])

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.identities)

    def __getitem__(self, indices: Int64[np.ndarray, " b"]) -> tuple[torch.Tensor, ...]:
        """Return pixels, identities, cameras and domains of some crops."""
        first = self.pixels[0].settings
        pixels = np.empty((len(indices), first.height, first.width, 3), np.uint8)
        for d, part in enumerate(self.pixels):
            here = self.domains[indices] == d
            pixels[here] = part[indices[here] - self.starts[d]]
        labels = (self.identities, self.cameras, self.domains)
        return tuple(map(torch.from_numpy, (pixels, *(column[indices] for column in labels))))


class UnlabelledSet(Dataset[tuple[torch.Tensor, ...]]):
    """Crops of a target: indexing with an array gives their pixels [b, h, w, 3] and the array."""

    def __init__(self, pixels: Pixels):
        self.pixels = pixels

    def __getitem__(self, indices: Int64[np.ndarray, " b"]) -> tuple[torch.Tensor, ...]:
        """Return pixels and indices of some crops."""
        return torch.from_numpy(self.pixels[indices]), torch.from_numpy(indices)


class _Caught(Dataset[tuple[torch.Tensor, ...] | Exception]):
    """The set, with mistakes as values: a loader process would wrap them in its traceback."""

    def __init__(self, crops: Dataset[tuple[torch.Tensor, ...]]):
        self.crops = crops

    def __getitem__(self, indices: Int64[np.ndarray, " b"]) -> tuple[torch.Tensor, ...] | Exception:
        try:
            return self.crops[indices]
        except (ValueError, OSError) as mistake:
            return mistake


def loaded(
    crops: Dataset[tuple[torch.Tensor, ...]],
    batches: Iterator[Int64[np.ndarray, " b"]],
    settings: LoadingSettings,
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield the batches of an epoch, in order, whatever the number of loader processes.

    Raises what reading a crop raises.
    """
    loader = DataLoader(
        _Caught(crops),
        sampler=batches,
        batch_size=None,
        num_workers=settings.workers,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield tuple(batch)
