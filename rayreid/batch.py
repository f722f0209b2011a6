"""What flows through the house: labelled crops, the census of a training set, batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor


@runtime_checkable
class Picture(Protocol):
    """An encoded image that is no file of its own: one of a shard, or of an archive."""

    @property
    def name(self) -> str:
        """Return what tells the image from others, for messages and fingerprints."""

    def read(self) -> bytes:
        """Return the image, encoded."""


Images = Sequence[Path | Picture] | UInt8[np.ndarray, "n height width 3"]
"""Crops as encoded images, decoded when they are needed, or as RGB pixels already in memory."""


@dataclass(frozen=True, eq=False)
class Crops:
    """Labelled crops of one domain, as columns of equal length N.

    ``identities`` and ``cameras`` are the data set's own numbers; distractors in a
    gallery carry identities that no query has. ``times`` are in seconds, where a data set's
    files tell them.
    """

    domain: str
    images: Images
    identities: Int64[np.ndarray, " n"]
    cameras: Int64[np.ndarray, " n"]
    times: Float64[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.identities)


@dataclass(frozen=True, eq=False)
class Domain:
    """One data set: crops to learn from, and a query / gallery split of other people."""

    name: str
    train: Crops
    query: Crops
    gallery: Crops
    fingerprint: str = ""
    """Short hash of the labels, and of the pixels drawn or of the encoded images."""


@dataclass(frozen=True)
class Census:
    """Who is in a training set: the number of identities of each source domain.

    Training labels are ``0 .. total - 1``, the domains one after the other.
    """

    identities: Mapping[str, int]

    @property
    def total(self) -> int:
        """Return the number of identities over all domains."""
        return sum(self.identities.values())


@dataclass(frozen=True, eq=False)
class Batch:
    """A training batch on one device.

    ``images`` are RGB in [0, 1]; ``identities`` are training labels (see `Census`);
    ``domains`` index the census' domains. A method that adapts also receives ``target``, varied
    crops of the target domain, and ``target_indices``, which of its crops they are.
    """

    images: Float[Tensor, "batch 3 height width"]
    identities: Int64[Tensor, " batch"]
    cameras: Int64[Tensor, " batch"]
    domains: Int64[Tensor, " batch"]
    target: Float[Tensor, "unlabelled 3 height width"] | None = None
    target_indices: Int64[Tensor, " unlabelled"] | None = None


@runtime_checkable
class Unlabelled(Protocol):
    """The training crops of a target domain: pictures and cameras, never who is on them."""

    @property
    def cameras(self) -> Int64[np.ndarray, " n"]:
        """Return the camera of each crop, which nobody needs to annotate."""

    def __len__(self) -> int:
        """Return the number of crops."""

    def batches(self, size: int) -> Iterator[Float[Tensor, "b 3 height width"]]:
        """Yield all crops in order, unvaried, as images on the training device."""
