"""The layouts of CUHK03 (Li et al., CVPR 2014): the released archive, and what is made of it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rayreid.batch import Crops, Domain, Picture
from rayreid.data.layouts.cuhk03_archive import (
    Slot,
    archived_crops,
    classic_test_people,
)
from rayreid.data.layouts.grammar import Grammar, Layout, Options, crops, opened_root
from rayreid.data.layouts.splits import chosen_split

DETECTED, LABELED, CLASSIC = "detected", "labeled", "classic"
SPLITS = 20

UNPACKED = Grammar(
    re.compile(
        r"(?P<pair>\d)_(?P<person>\d{3,9})_(?P<view>[12])_(?P<image>\d\d)\.(?:png|jpg|jpeg)",
        re.ASCII | re.IGNORECASE,
    ),
    "A_PPP_V_II.png (camera pair, person, view, image)",
)
NEW_PROTOCOL = Grammar(
    re.compile(
        r"(?P<person>\d{1,9})_c(?P<camera>[12])_\d+\.(?:png|jpg|jpeg)", re.ASCII | re.IGNORECASE
    ),
    "PPPP_cC_N.png (person, camera 1 or 2, number)",
)
ARCHIVE = "cuhk-03.mat"
FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
HOLDS = (
    f"the folders {DETECTED} and {LABELED} with {', '.join(FOLDERS)} in each; or the released "
    f"{ARCHIVE} or unpacked folders images_{DETECTED} and images_{LABELED}, with "
    f"cuhk03_new_protocol_config_{DETECTED}.mat and cuhk03_new_protocol_config_{LABELED}.mat"
)

MAX_CONFIG_BYTES = 1_000_000
"""The published configurations have 76,000 bytes."""


class _Config(NamedTuple):
    """The new protocol: slot and person of all crops, and the indices of its parts."""

    slots: list[Slot]
    people: list[int]
    train: list[int]
    query: list[int]
    gallery: list[int]


def read_cuhk03(root: Path, name: str, options: Options = frozenset()) -> Domain:
    """Return the domain in a folder of CUHK03, by the new protocol or a classic split.

    Boxes are those of a detector, or of people who labelled them (option ``labeled``). The
    default is ``detected``: a system at work has a detector's boxes, and most papers on
    generalisation that read this set rank on them; figures of the two do not compare.

    The new protocol (Zhong et al., CVPR 2017; 767 people to learn from, 700 to rank) is read from
    the folders it is given out in; or from the crops and the configuration of its authors. Crops
    are those in ``cuhk-03.mat`` (in the folder, or its ``cuhk03_release``; they are `Picture`),
    or, without it, in ``images_detected`` or ``images_labeled``, where other loaders unpack them.

    The option ``classic`` is the protocol before that, one of the archive's 20 test sets (``1``
    to ``20``): 100 people, all of whose crops are query and gallery at once; the others are
    learnt from. Its published figures are of one gallery crop per person, drawn at random.

    Camera is the view, 1 or 2, of whichever pair of cameras. A person is one of a camera pair;
    identities number them from 1, pair by pair, as the new protocol does.

    Raises FileNotFoundError when the root, or what is needed of its content, is missing;
    ValueError when the root is a file, options contradict each other, or a file is damaged or
    outside the grammar, and for DukeMTMC.
    """
    root = opened_root(root)
    if {DETECTED, LABELED} <= options:
        raise ValueError(f"boxes are either {DETECTED} or {LABELED}: choose one")
    boxes = LABELED if LABELED in options else DETECTED
    if CLASSIC in options:
        return _classic(root, name, boxes, chosen_split(options))
    if options - {DETECTED, LABELED}:
        raise ValueError(
            "the splits 1 to 20 of CUHK03 are the classic protocol's, and the new one has but one: "
            f"add the option {CLASSIC} or leave the number out"
        )
    if any((root / folder).is_dir() for folder in FOLDERS):
        raise ValueError(
            f"{root} holds {', '.join(FOLDERS)} itself, which do not tell what boxes they are of: "
            f"move them to a folder {root / DETECTED} or {root / LABELED}"
        )
    if (root / boxes).is_dir():
        return _from_folders(root / boxes, name)
    images = _images(root, boxes)
    config = _config(_needed(root, f"cuhk03_new_protocol_config_{boxes}.mat"))
    missing = [slot for slot in config.slots if slot not in images]
    if missing:
        raise FileNotFoundError(
            f"{root} lacks {len(missing)} of the {boxes} crops in the new protocol, {missing[0]} "
            "for one: unpack CUHK03 again"
        )

    def part(indices: Sequence[int]) -> Crops:
        slots = [config.slots[i] for i in indices]
        people = [config.people[i] for i in indices]
        return crops(name, [images[slot] for slot in slots], people, [s.view for s in slots])

    return Domain(name, part(config.train), part(config.query), part(config.gallery))


def _from_folders(folder: Path, name: str) -> Domain:
    """Return the new protocol as given out in folders."""

    def part(folder: Path) -> Crops:
        found = NEW_PROTOCOL.scan(folder)
        if not found:
            raise ValueError(f"{folder} holds no crops: unpack CUHK03 again")
        people = [int(told["person"]) for _, told in found]
        return crops(
            name, [path for path, _ in found], people, [int(t["camera"]) for _, t in found]
        )

    train, query, gallery = (part(folder / own) for own in FOLDERS)
    return Domain(name, train, query, gallery)


def _classic(root: Path, name: str, boxes: str, split: int) -> Domain:
    """Return a classic split: query and gallery are the same crops."""
    archive = _needed(root, ARCHIVE)
    images = archived_crops(archive, boxes)
    people = {slot[:2] for slot in images}
    test = classic_test_people(archive, split)
    if test - people:
        raise ValueError(
            f"{archive} has no {boxes} crop of {min(test - people)} (camera pair, person), who is "
            f"in its test set {split}: download it again"
        )
    number = {person: n for n, person in enumerate(sorted(people), 1)}

    def part(*, tested: bool) -> Crops:
        slots = [slot for slot in images if (slot[:2] in test) == tested]
        owners = [number[slot[:2]] for slot in slots]
        return crops(name, [images[slot] for slot in slots], owners, [s.view for s in slots])

    ranked = part(tested=True)
    return Domain(name, part(tested=False), ranked, ranked)


def _images(root: Path, boxes: str) -> Mapping[Slot, Path | Picture]:
    """Return all crops of the archive or, without one, of the folder it was unpacked to."""
    archive = _file(root, ARCHIVE)
    if archive is not None:
        return archived_crops(archive, boxes)
    unpacked = root / f"images_{boxes}"
    if unpacked.is_dir():
        return {
            Slot(*(int(told[field]) for field in Slot._fields)): path
            for path, told in UNPACKED.scan(unpacked)
        }
    other = DETECTED if boxes == LABELED else LABELED
    if (root / other).is_dir() or (root / f"images_{other}").is_dir():
        raise FileNotFoundError(
            f"{root} holds {other} boxes alone, not {boxes} ones: read it as "
            f"cuhk03:{other}={root} or unpack the others too"
        )
    raise FileNotFoundError(
        f"{root} is not laid out like CUHK03, with {HOLDS}: give the folder that holds them"
    )


def _file(root: Path, name: str) -> Path | None:
    """Return a released file: in the root, or in the folder that the release unpacks to."""
    places = (root / name, root / "cuhk03_release" / name)
    return next((place for place in places if place.is_file()), None)


def _needed(root: Path, name: str) -> Path:
    found = _file(root, name)
    if found is None:
        raise FileNotFoundError(
            f"no file {name} in {root} or its cuhk03_release, and this protocol of CUHK03 is told "
            "there: put it there, or check the path"
        )
    return found


def _config(path: Path) -> _Config:
    """Return the configuration that the new protocol was published as, MATLAB 5."""
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{path} has more than {MAX_CONFIG_BYTES:,} bytes: it is not the protocol")
    from scipy.io import loadmat

    fields = ("filelist", "labels", "train_idx", "query_idx", "gallery_idx")
    try:
        told = loadmat(path, variable_names=fields)
        files = [str(file.item()) for file in told["filelist"].ravel()]
        people, *parts = ([int(n) for n in told[field].ravel()] for field in fields[1:])
    except Exception as error:  # loadmat raises whatever its parsers come to.
        raise ValueError(
            f"{path} is not the new protocol of CUHK03 ({error}): replace it"
        ) from error
    names = [UNPACKED.pattern.fullmatch(file) for file in files]
    slots = [Slot(*(int(m[field]) for field in Slot._fields)) for m in names if m is not None]
    indices = [index for part in parts for index in part]
    if len(slots) != len(files) or len(people) != len(files):
        raise ValueError(
            f"{path} does not name as many people as crops, each {UNPACKED.words}: replace it"
        )
    if not all(parts) or min(indices) < 1 or max(indices) > len(files):
        raise ValueError(f"{path} has a part that is empty or not among its crops: replace it")
    return _Config(slots, people, *([index - 1 for index in part] for part in parts))


CUHK03 = Layout(
    read_cuhk03,
    HOLDS,
    options={
        DETECTED: "boxes of a detector, the default",
        LABELED: "boxes that people labelled",
        CLASSIC: f"the protocol of 100 test people, on one of its {SPLITS} splits",
    },
    splits=SPLITS,
    splits_with=CLASSIC,
    counts={
        "": "train 7365/767, query 1400/700, gallery 5332/700",
        DETECTED: "train 7365/767, query 1400/700, gallery 5332/700",
        LABELED: "train 7368/767, query 1400/700, gallery 5328/700",
        "all": "train 14097/1467",
        f"all,{DETECTED}": "train 14097/1467",
        f"all,{LABELED}": "train 14096/1467",
    },
)
