"""What is in ``cuhk-03.mat``, the archive that CUHK03 is released as: crops and test sets.

It is of MATLAB 7.3, thus HDF5 with the axes in reverse. ``detected`` and ``labeled`` [1, 5] refer
to the camera pairs, a pair [10, people] to the crops of its people (five of each view; some are
empty), and a crop is [3, width, height]. ``testsets`` [1, 20] refers to the classic test sets
[2, 100], camera pair and person.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rayreid.data.decoding import MAX_PIXELS

PER_VIEW = 5
"""Crops of a person in one view, at most; those of the second view follow those of the first."""

MAX_CROPS = 1_000_000
"""More than this in a camera pair is refused before it is looked at."""

_READING = threading.RLock()

# What h5py raises on damaged files, and on others' that are sound.
_DAMAGE = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError)


class Slot(NamedTuple):
    """Where a crop stands in the archive, all counted from 1: ``A_PPP_V_II`` in published names."""

    pair: int
    person: int
    view: int
    image: int

    def __str__(self) -> str:
        return f"{self.pair}_{self.person:03}_{self.view}_{self.image:02}"


@dataclass(frozen=True)
class ArchivedCrop:
    """A crop in the archive, a `Picture`: read on any thread of any process, and pickled small.

    The archive is opened for every crop and closed after it, so that no process inherits an open
    one.
    """

    archive: Path
    boxes: str
    """``detected`` or ``labeled``."""
    slot: Slot

    @property
    def name(self) -> str:
        """Return what tells the crop from others, whatever folder the archive lies in."""
        return f"{self.archive.name}/{self.boxes}/{self.slot}.png"

    def read(self) -> bytes:
        """Return the crop as PNG; raises `ValueError` where it cannot be read."""
        with _opened(self.archive) as file:
            pair = file[file[self.boxes][()].ravel()[self.slot.pair - 1]]
            crop = file[pair[self.slot.image - 1, self.slot.person - 1]]
            pixels = _checked(crop)[()].T
        encoded = BytesIO()
        # Not compressed: quick, and of the same length everywhere, which fingerprints tell.
        Image.fromarray(np.ascontiguousarray(pixels)).save(encoded, "PNG", compress_level=0)
        return encoded.getvalue()


def archived_crops(archive: Path, boxes: str) -> dict[Slot, ArchivedCrop]:
    """Return all crops in ``detected`` or ``labeled`` boxes, none of them read yet.

    Raises FileNotFoundError where there is no archive, ValueError for one that is not laid out so.
    """
    found = {}
    with _opened(archive) as file:
        for pair, reference in enumerate(file[boxes][()].ravel(), 1):
            cells = file[reference]
            if cells.ndim != 2 or cells.shape[0] != 2 * PER_VIEW or cells.size > MAX_CROPS:
                raise ValueError(
                    f"camera pair {pair} is of shape {cells.shape}, not {2 * PER_VIEW} x people"
                )
            for person, own in enumerate(cells[()].T, 1):
                for image, cell in enumerate(own, 1):
                    crop = file[cell]
                    if crop.ndim < 3 or not crop.size:  # an empty cell
                        continue
                    _checked(crop)
                    slot = Slot(pair, person, 1 if image <= PER_VIEW else 2, image)
                    found[slot] = ArchivedCrop(archive, boxes, slot)
    return found


def classic_test_people(archive: Path, split: int) -> set[tuple[int, int]]:
    """Return camera pair and person of all people in a classic test set, 1 or higher.

    Raises as `archived_crops` does.
    """
    with _opened(archive) as file:
        sets = file["testsets"][()].ravel()
        if split > len(sets):
            raise ValueError(f"test set {split} is asked for, and it has {len(sets)}")
        rows = file[sets[split - 1]]
        if rows.ndim != 2 or rows.shape[0] != 2 or rows.size > MAX_CROPS:
            raise ValueError(f"test set {split} is of shape {rows.shape}, not 2 x people")
        return {(int(pair), int(person)) for pair, person in rows[()].T}


def _checked(crop: Any) -> Any:
    """Return a crop of the archive, not read yet, if it is one."""
    wrong = crop.ndim != 3 or crop.shape[0] != 3 or crop.dtype != np.uint8
    if wrong or crop.shape[1] * crop.shape[2] > MAX_PIXELS:
        raise ValueError(
            f"{crop.dtype} of shape {crop.shape} are in the place of a crop, 3 x width x height "
            f"bytes of at most {MAX_PIXELS:,} pixels"
        )
    return crop


@contextmanager
def _opened(archive: Path) -> Iterator[Any]:
    """Open the archive for one thread at a time; what is wrong with it becomes a sentence."""
    if not archive.is_file():
        raise FileNotFoundError(f"no archive {archive}: check the path")
    h5py = _library()
    with _READING:
        try:
            with h5py.File(archive, "r", locking=False) as file:
                yield file
        except _DAMAGE as error:
            raise ValueError(
                f"{archive} cannot be read as CUHK03's archive ({error}): download it again"
            ) from error


@cache
def _library() -> Any:
    """Import h5py, slow to import and needed for this set alone.

    From then on a process forks only while no archive is open. The hook has to be later than
    h5py's own, which locks out its users at a fork: the last hook is the first to run, and a
    thread that is reading has to come to its end.
    """
    import h5py

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_READING.acquire,
            after_in_parent=_READING.release,
            after_in_child=_READING.release,
        )
    return h5py
