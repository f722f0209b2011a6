"""The layout of MSMT17 (Wei et al., CVPR 2018): folders of people, and lists of the parts.

V1 and V2 name the same crops; in V2 the faces are masked.
"""

import logging
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from rayreid.batch import Crops, Domain
from rayreid.data.layouts.grammar import Layout, Options, crops, opened_root

log = logging.getLogger(__name__)

VERSIONS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
"""Folders of the training (and validation) people and of the test people."""

LINE = re.compile(
    r"(?P<crop>\d+/\d+_\d+_(?P<camera>\d{1,9})_\w+)\.(?:jpg|jpeg|png)"
    r"\s+(?P<identity>\d{1,9})",
    re.ASCII | re.IGNORECASE,
)
_WORDS = "PPPP/PPPP_III_CC_DDDDtime_FFFF_K.jpg PID (person, crop, camera, time, frame, box)"

HOLDS = (
    "list_train.txt, list_val.txt, list_query.txt, list_gallery.txt and the folders train and "
    "test (V1) or mask_train_v2 and mask_test_v2 (V2)"
)
VAL_APART = "val_apart"

MAX_LIST_BYTES = 100_000_000
"""The largest of the lists, the gallery's, has 82,161 lines of about 50 bytes."""


class _Line(NamedTuple):
    crop: str
    identity: int
    camera: int


def read_msmt17(root: Path, name: str, options: Options = frozenset()) -> Domain:
    """Return the domain in a folder of MSMT17 V1 or V2, whichever is there.

    The crops of ``list_val.txt`` are learnt from like those of ``list_train.txt``, whose people
    they show: 32,621 crops of 1,041 people is the training set that most papers state. Some
    loaders leave them out without a word (30,248 crops); the option ``val_apart`` does, and the
    log says which was done.

    Crops are absolute paths in the order of the lists. Numbers in the lists start at 0, and anew
    for the test people: here people count from 1, the test people after the training ones.
    Cameras are the third field of the names. Crops that no list names are counted in the log and
    left out; suffixes may differ from the lists' (``.JPG``, ``.jpeg``).

    A conversion to Market-1501's folders is read as ``market1501=``, if its names follow that
    grammar and its people count from 1 (there, number 0 is nobody).

    Raises FileNotFoundError when the root, a folder, a list or a listed crop is missing;
    ValueError when the root is a file, holds both versions or a conversion, when a list is empty,
    has a line outside the grammar or names a crop that is named before, and for DukeMTMC.
    """
    root = opened_root(root)
    version = _version(root)
    train_folder, test_folder = (root / folder for folder in VERSIONS[version])
    train, val, query, gallery = (
        _listed(root / f"list_{part}.txt") for part in ("train", "val", "query", "gallery")
    )
    people = max(line.identity for line in train + val) + 1
    taught = _found(train_folder, train + val)
    ranked = _found(test_folder, query + gallery)
    log.info(
        "%s is MSMT17 %s: the %d validation crops are %s",
        root,
        version,
        len(val),
        f"left out ({VAL_APART})" if VAL_APART in options else f"learnt from, unless {VAL_APART}",
    )
    return Domain(
        name,
        _crops(name, taught, train if VAL_APART in options else train + val, 1),
        _crops(name, ranked, query, 1 + people),
        _crops(name, ranked, gallery, 1 + people),
    )


def _version(root: Path) -> str:
    """Return which version a folder holds."""
    found = [
        version
        for version, folders in VERSIONS.items()
        if any((root / folder).is_dir() for folder in folders)
    ]
    if len(found) > 1:
        raise ValueError(f"{root} holds both versions of MSMT17: give each a folder of its own")
    if not found:
        if (root / "bounding_box_train").is_dir() or (root / "bounding_box_test").is_dir():
            raise ValueError(
                f"{root} is in Market-1501's layout, not in MSMT17's: read a conversion as "
                f"market1501={root}"
            )
        raise FileNotFoundError(
            f"{root} is not laid out like MSMT17, with {HOLDS}: give the folder that holds them"
        )
    for folder in VERSIONS[found[0]]:
        if not (root / folder).is_dir():
            raise FileNotFoundError(f"no folder {root / folder}: unpack MSMT17 again")
    return found[0]


def _listed(path: Path) -> list[_Line]:
    """Return the lines of a list."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no list {path}: MSMT17 comes with it; without it nobody knows which crops are which"
        )
    if path.stat().st_size > MAX_LIST_BYTES:
        raise ValueError(f"{path} has more than {MAX_LIST_BYTES:,} bytes: it is no list of MSMT17")
    lines = []
    for number, text in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        if not text.strip():
            continue
        match = LINE.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"{path} has {text[:100]!r} in line {number}, which does not name a crop as "
                f"{_WORDS}: replace the list"
            )
        lines.append(_Line(match["crop"].lower(), int(match["identity"]), int(match["camera"])))
    if not lines:
        raise ValueError(f"{path} names no crop: replace the list")
    return lines


def _found(folder: Path, lines: list[_Line]) -> dict[str, Path]:
    """Return the files below a folder by crop: all that its lists name, each of them once."""
    there = {
        f"{Path(at).relative_to(folder).as_posix()}/{Path(file).stem}".lower(): Path(at, file)
        for at, _, files in os.walk(folder)
        for file in files
        if not file.startswith(".") and file.lower().endswith((".jpg", ".jpeg", ".png"))
    }
    named = Counter(line.crop for line in lines)
    twice = next((crop for crop, count in named.items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"the lists of {folder} name {twice} twice: replace them")
    missing = [line.crop for line in lines if line.crop not in there]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of the crops that the lists name, {missing[0]} for "
            "one: unpack MSMT17 again"
        )
    if len(there) > len(named):
        log.warning("%s has %d crops that no list names: left out", folder, len(there) - len(named))
    return there


def _crops(domain: str, files: dict[str, Path], lines: list[_Line], start: int) -> Crops:
    """Return listed crops; person 0 of the list becomes ``start``."""
    return crops(
        domain,
        [files[line.crop] for line in lines],
        [start + line.identity for line in lines],
        [line.camera for line in lines],
    )


MSMT17 = Layout(
    read_msmt17,
    HOLDS,
    options={VAL_APART: "leave the crops of list_val.txt out of the training set"},
    counts={
        "": "train 32621/1041, query 11659, gallery 82161",
        VAL_APART: "train 30248, query 11659, gallery 82161",
        "all": "train 126441/4101",
    },
)
