"""The layout of VIPeR (Gray, Brennan and Tao, PETS 2007): 632 people, one crop in each camera."""

import re
from collections.abc import Iterable
from pathlib import Path

from rayreid.batch import Crops, Domain
from rayreid.data.layouts.grammar import Grammar, Layout, Options, crops, opened_root
from rayreid.data.layouts.splits import (
    SPLITS,
    SWAPPED,
    chosen_split,
    numbered,
    one_each,
    ten_splits,
)

CAMERAS = "cam_a", "cam_b"

GRAMMAR = Grammar(
    re.compile(r"(?P<identity>\d{1,9})_\d+\.(?:bmp|png|jpg|jpeg)", re.ASCII | re.IGNORECASE),
    "III_AAA.bmp (identity, angle; also .png, .jpg)",
)
HOLDS = f"the folders {CAMERAS[0]} and {CAMERAS[1]}"


def read_viper(root: Path, name: str, options: Options = frozenset()) -> Domain:
    """Return the domain in a folder with ``cam_a`` and ``cam_b``, on one of ten splits.

    Half of the people, 316, are ranked: camera A (1) looks for them in camera B (2), or B in A
    with the option ``swapped``; the other half is learnt from. The splits are those of
    ``splits/viper.json``; the usual ones are drawn at random on every machine, so that figures on
    these compare with others' in the mean over ten splits only.

    Crops are absolute paths, sorted by person. The numbers in the names have gaps and start at 0:
    here people are 1 to 632, in the same order.

    Raises FileNotFoundError when the root or a camera's folder is missing; ValueError when the
    root is a file, a file name is outside the grammar, somebody is missing or has two crops in a
    camera, or several splits are asked for, and for DukeMTMC.
    """
    root = opened_root(root)
    for folder in CAMERAS:
        if not (root / folder).is_dir():
            raise FileNotFoundError(
                f"{root} is not laid out like VIPeR, with {HOLDS}: give the folder that holds them"
            )
    seen = [one_each(GRAMMAR.scan(root / folder)) for folder in CAMERAS]
    alone = sorted(seen[0].keys() ^ seen[1].keys())
    if alone:
        raise ValueError(
            f"{root} shows person {alone[0]:03} in one camera only, and everybody in VIPeR is in "
            "both: unpack the set again"
        )
    people = numbered(seen[0], "viper", root)
    tested = ten_splits("viper")[chosen_split(options) - 1]
    learnt = set(people.values()) - tested

    def part(chosen: Iterable[int], *cameras: int) -> Crops:
        found = [
            (seen[camera - 1][identity][0], number, camera)
            for identity, number in people.items()
            if number in chosen
            for camera in cameras
        ]
        return crops(name, *zip(*found, strict=True))

    asking, asked = (2, 1) if SWAPPED in options else (1, 2)
    return Domain(name, part(learnt, 1, 2), part(tested, asking), part(tested, asked))


VIPER = Layout(
    read_viper,
    HOLDS,
    options={SWAPPED: "look for people of camera B in camera A, not the other way round"},
    splits=SPLITS,
    counts={
        "": "train 632/316, query 316/316, gallery 316/316",
        SWAPPED: "train 632/316, query 316/316, gallery 316/316",
        "all": "train 1264/632",
    },
)
