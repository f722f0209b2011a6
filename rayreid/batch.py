"""What flows through the house: labelled crops, the census of a training set, batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

Images = Sequence[Path] | UInt8[np.ndarray, "n height width 3"]
"""Crops as files, decoded when they are needed, or as RGB pixels already in memory."""


@dataclass(frozen=True, eq=False)
class Crops:
    """Labelled crops of one domain, as columns of equal length N.

    ``identities`` and ``cameras`` are the data set's own numbers; distractors in a
    gallery carry identities that no query has.
    """

    domain: str
    images: Images
    identities: Int64[np.ndarray, " n"]
    cameras: Int64[np.ndarray, " n"]

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
    """Short hash of the labels, and of the pixels drawn or of the files' names and sizes."""


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
    ``domains`` index the census' domains.
    """

    images: Float[Tensor, "batch 3 height width"]
    identities: Int64[Tensor, " batch"]
    cameras: Int64[Tensor, " batch"]
    domains: Int64[Tensor, " batch"]
