"""The folder layout of Market-1501 (Zheng et al., ICCV 2015), which many sets have adopted."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from rayreid.batch import Crops, Domain

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"

GRAMMAR = "PPPP_cCsS_FFFFFF_NN.jpg (identity, camera, sequence, frame, box; also .jpeg, .png)"

# Some crops of the original archive end in .jpg.jpg; MultiviewX has letters after the box.
_NAME = re.compile(
    r"(-1|\d+)_c(\d+)s(\d+)_(\d+)_\d+[a-z]*\.(?:jpg|jpeg|png)(?:\.jpg)?",
    re.ASCII | re.IGNORECASE,
)
_NOT_CROPS = {"thumbs.db", "desktop.ini"}
_WITHDRAWN = re.compile(r"duke[-_ ]?mtmc", re.IGNORECASE)
_JUNK = -1  # boxes that are neither right nor wrong, in no metric
_DISTRACTOR = 0  # false detections: negatives in a gallery, nobody to learn or to look for
_FRAMES_A_SECOND = 25


def read_market1501(root: Path, name: str) -> Domain:
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
    if _WITHDRAWN.search(root.absolute().name) or _WITHDRAWN.search(root.resolve().name):
        raise ValueError(
            f"{root} is named like DukeMTMC, which is not read: it shows people recorded without "
            "their consent and was withdrawn by its authors in 2019; use another set"
        )
    root = root.absolute()
    if not root.exists():
        raise FileNotFoundError(f"no data set at {root}: there is no such folder; check the path")
    if not root.is_dir():
        raise ValueError(f"{root} is a file, not a data set: unpack it and give the folder")
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
    return Domain(name, train[0] if train else _none(name), query, gallery)


def read_market1501_all(root: Path, name: str) -> Domain:
    """Return the domain with the people of all folders to learn from, and nobody to rank.

    For protocols that train on whole sets, and sets that come without a training split. Errors
    as `read_market1501`.
    """
    domain = read_market1501(root, name)
    parts = [domain.train, domain.query, domain.gallery]
    test = np.union1d(domain.query.identities, domain.gallery.identities)
    both = np.intersect1d(domain.train.identities, test)
    if len(both):
        raise ValueError(
            f"{root} has identity {both[0]} both in {TRAIN} and outside it: its numbers may begin "
            "anew there, so that people cannot be told apart; use market1501= instead"
        )
    times = [part.times for part in parts if part.times is not None]
    every = Crops(
        name,
        [image for part in parts for image in part.images],
        np.concatenate([part.identities for part in parts]),
        np.concatenate([part.cameras for part in parts]),
        np.concatenate(times),
    )
    person = every.identities != _DISTRACTOR
    images = [image for image, kept in zip(every.images, person, strict=True) if kept]
    assert every.times is not None
    known = Crops(
        name, images, every.identities[person], every.cameras[person], every.times[person]
    )
    return Domain(name, known, _none(name), _none(name))


def _is_person(identity: int) -> bool:
    return identity not in (_JUNK, _DISTRACTOR)


def _is_not_junk(identity: int) -> bool:
    return identity != _JUNK


def _none(domain: str) -> Crops:
    return Crops(domain, [], np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


def _timed(parts: Sequence[tuple[Crops, Float64[np.ndarray, "_ 2"]]]) -> list[Crops]:
    """Return the parts of a data set with the time of each crop, in seconds on its camera's clock.

    As in QAConv (Liao and Shao, ECCV 2020): 25 frames a second, and the sequences of a camera
    follow one another, each as long as its last frame. (Their code adds the length of what came
    before twice from the third sequence on; here it is added once.) Where a set's numbers are not
    frames of a video, times mean nothing, and nothing reads them unless asked to.
    """
    cameras = np.concatenate([crops.cameras for crops, _ in parts])
    sequences, frames = np.concatenate([numbers for _, numbers in parts]).T
    # Sorted by camera, then by sequence.
    (camera, _), which = np.unique(np.stack([cameras, sequences]), axis=1, return_inverse=True)
    length = np.zeros(len(camera))
    np.maximum.at(length, which, frames)
    start = np.cumsum(length) - length
    start -= start[np.searchsorted(camera, camera)]
    times = (start[which] + frames) / _FRAMES_A_SECOND
    ends = np.cumsum([len(crops) for crops, _ in parts])
    split = np.split(times, ends[:-1])
    return [replace(crops, times=own) for (crops, _), own in zip(parts, split, strict=True)]


def _read(
    folder: Path, domain: str, keep: Callable[[int], bool]
) -> tuple[Crops, Float64[np.ndarray, "_ 2"]]:
    """Return the crops in a folder whose identity is to be kept, their sequences and frames."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, where a folder of crops was expected: replace it")
    images, identities, cameras, numbers = [], [], [], []
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.startswith(".") or path.name.lower() in _NOT_CROPS:
            continue
        found = _NAME.fullmatch(path.name)
        if found is None:
            raise ValueError(
                f"{path} is not named like a crop of Market-1501, {GRAMMAR}: rename or remove it"
            )
        identity, camera = int(found[1]), int(found[2])
        if keep(identity):
            images.append(path)
            identities.append(identity)
            cameras.append(camera)
            numbers.append((float(found[3]), float(found[4])))
    if not images:
        raise ValueError(
            f"{folder} holds no crops to use (identities -1 do not count, nor 0 outside the "
            "gallery): unpack the data set again or check the path"
        )
    crops = Crops(
        domain, images, np.array(identities, dtype=np.int64), np.array(cameras, dtype=np.int64)
    )
    return crops, np.array(numbers)
