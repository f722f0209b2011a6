"""Loading: from labelled crops to uint8 pixels in memory, and to batches."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from pydantic import Field
from torch.utils.data import DataLoader, Dataset

from rayreid.batch import Census, Crops, Domain, Images
from rayreid.data.decoding import decode_all
from rayreid.settings import Settings

log = logging.getLogger(__name__)


class LoadingSettings(Settings):
    """Resolution of the crops, and how they come into memory."""

    height: int = Field(256, ge=16, le=2048)
    """Height that crops are resized to, in pixels."""
    width: int = Field(128, ge=16, le=2048)
    """Width that crops are resized to, in pixels."""
    memory_gib: float = Field(4.0, ge=0)
    """A part of a domain (training, query or gallery crops) is kept decoded up to this size, in
    GiB; a larger one is decoded as it is read."""
    workers: int = Field(0, ge=0, le=64)
    """Loader processes; 0 reads in the training process, enough where crops are kept."""


def decoded(
    domain: Domain,
    settings: LoadingSettings,
    progress: Callable[[int], None] | None = None,
    *,
    parts: Sequence[str] = ("train", "query", "gallery"),
) -> Domain:
    """Return the domain with the crops of some parts decoded into memory, where they fit.

    ``progress`` is called with the number of crops decoded since its last call.
    """
    budget = settings.memory_gib * 2**30

    def in_memory(part: str) -> Crops:
        crops: Crops = getattr(domain, part)
        size = len(crops) * settings.height * settings.width * 3
        if isinstance(crops.images, np.ndarray) or part not in parts:
            return crops
        if size > budget:
            log.warning(
                "%d %s crops of %s take %.1f GiB decoded, more than loading.memory_gib=%g: "
                "decoding them as they are read",
                len(crops),
                part,
                crops.domain,
                size / 2**30,
                settings.memory_gib,
            )
            return crops
        pixels = decode_all(crops.images, settings.height, settings.width, progress=progress)
        return replace(crops, images=pixels)

    return replace(
        domain,
        train=in_memory("train"),
        query=in_memory("query"),
        gallery=in_memory("gallery"),
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
            chosen: UInt8[np.ndarray, "b h w 3"] = self.images[indices]
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


def fingerprint(domain: Domain) -> str:
    """Return a short hash of a domain as it was opened, before any file is decoded."""
    digest = hashlib.sha256()
    for crops in (domain.train, domain.query, domain.gallery):
        digest.update(crops.identities.tobytes() + crops.cameras.tobytes())
        if isinstance(crops.images, np.ndarray):
            digest.update(np.ascontiguousarray(crops.images).tobytes())
        else:
            for image in crops.images:
                size = image.stat().st_size if isinstance(image, Path) else len(image.read())
                digest.update(f"{image.name} {size}\n".encode())
    return digest.hexdigest()[:16]
