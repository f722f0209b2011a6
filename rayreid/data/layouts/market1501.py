"""The folder layout of Market-1501 (Zheng et al., ICCV 2015), which many sets have adopted."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from rayreid.batch import Crops, Domain
from rayreid.data.layouts.grammar import (
    JUNK,
    NOBODY,
    Grammar,
    Layout,
    Options,
    crops,
    none,
    opened_root,
)

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"

# Some crops of the original archive end in .jpg.jpg; MultiviewX has letters after the box.
GRAMMAR = Grammar(
    re.compile(
        r"(?P<identity>-1|\d+)_c(?P<camera>\d+)s(?P<sequence>\d+)_(?P<frame>\d+)_\d+[a-z]*"
        r"\.(?:jpg|jpeg|png)(?:\.jpg)?",
        re.ASCII | re.IGNORECASE,
    ),
    "PPPP_cCsS_FFFFFF_NN.jpg (identity, camera, sequence, frame, box; also .jpeg, .png)",
)
_FRAMES_A_SECOND = 25


def read_market1501(root: Path, name: str, _options: Options = frozenset()) -> Domain:
    """Return the domain in a folder with ``query``, ``bounding_box_test``, ``bounding_box_train``.

    Crops are absolute paths sorted by file name. Identities and cameras are those in the
    names; times are made of their sequences and frames (see `_timed`). Identity -1 (junk) is
    dropped everywhere; identity 0 (distractors) stays in the gallery alone. Hidden files and
    ``Thumbs.db`` are passed over. Without a ``bounding_box_train`` folder ``train`` is empty: a
    target needs none.

    Raises FileNotFoundError when the root, ``query`` or ``bounding_box_test`` is missing;
    ValueError when the root is a file, a folder has no usable crop or a file name is outside
    the grammar, and for DukeMTMC, which its authors have withdrawn.
    """
    root = opened_root(root)
    if not any((root / folder).is_dir() for folder in (TRAIN, QUERY, GALLERY)):
        raise FileNotFoundError(
            f"{root} holds none of the folders {QUERY}, {GALLERY}, {TRAIN}: give the folder that "
            "holds them"
        )
    for folder in (QUERY, GALLERY):
        if not (root / folder).is_dir():
            raise FileNotFoundError(
                f"no folder {root / folder}: a data set in Market-1501's layout needs {QUERY} and "
                f"{GALLERY}; unpack it again or check the path"
            )
    parts = [_read(root / QUERY, name, _is_person), _read(root / GALLERY, name, _is_not_junk)]
    if (root / TRAIN).exists():
        parts.append(_read(root / TRAIN, name, _is_person))
    query, gallery, *train = _timed(parts)
    return Domain(name, train[0] if train else none(name), query, gallery)


def _is_person(identity: int) -> bool:
    return identity not in (JUNK, NOBODY)


def _is_not_junk(identity: int) -> bool:
    return identity != JUNK


def _timed(parts: Sequence[tuple[Crops, Float64[np.ndarray, "_ 2"]]]) -> list[Crops]:
    """Return the parts of a data set with the time of each crop, in seconds on its camera's clock.

    As in QAConv (Liao and Shao, ECCV 2020): 25 frames a second, and the sequences of a camera
    follow one another, each as long as its last frame. (Their code adds the length of what came
    before twice from the third sequence on; here it is added once.) Where a set's numbers are not
    frames of a video, times mean nothing, and nothing reads them unless asked to.
    """
    cameras = np.concatenate([part.cameras for part, _ in parts])
    sequences, frames = np.concatenate([numbers for _, numbers in parts]).T
    # Sorted by camera, then by sequence.
    (camera, _), which = np.unique(np.stack([cameras, sequences]), axis=1, return_inverse=True)
    length = np.zeros(len(camera))
    np.maximum.at(length, which, frames)
    start = np.cumsum(length) - length
    start -= start[np.searchsorted(camera, camera)]
    times = (start[which] + frames) / _FRAMES_A_SECOND
    ends = np.cumsum([len(part) for part, _ in parts])
    split = np.split(times, ends[:-1])
    return [replace(part, times=own) for (part, _), own in zip(parts, split, strict=True)]


def _read(
    folder: Path, domain: str, keep: Callable[[int], bool]
) -> tuple[Crops, Float64[np.ndarray, "_ 2"]]:
    """Return the crops in a folder whose identity is to be kept, their sequences and frames."""
    images, identities, cameras, numbers = [], [], [], []
    for path, told in GRAMMAR.scan(folder):
        if keep(int(told["identity"])):
            images.append(path)
            identities.append(int(told["identity"]))
            cameras.append(int(told["camera"]))
            numbers.append((float(told["sequence"]), float(told["frame"])))
    if not images:
        raise ValueError(
            f"{folder} holds no crops to use (identities -1 do not count, nor 0 outside the "
            "gallery): unpack the data set again or check the path"
        )
    return crops(domain, images, identities, cameras), np.array(numbers)


MARKET1501 = Layout(
    read_market1501,
    f"the folders {QUERY}, {GALLERY} and, to learn from, {TRAIN}",
    counts={"": "train 12936/751, query 3368/750, gallery 15913"},
)
