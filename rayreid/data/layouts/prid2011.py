"""The layout of PRID2011 (Hirzer et al., SCIA 2011), single shot: two cameras share 200 people."""

import re
from collections.abc import Iterable
from pathlib import Path

from rayreid.batch import Crops, Domain
from rayreid.data.layouts.grammar import Grammar, Layout, Options, crops, opened_root
from rayreid.data.layouts.splits import DRAWS, SPLITS, SWAPPED, chosen_split, one_each, ten_splits

FOLDER, CAMERAS = "single_shot", ("cam_a", "cam_b")
SHARED = DRAWS["prid2011"].people
"""Persons 1 to this number are the same in both cameras; beyond it, numbers are each camera's."""
PEOPLE_B = 749

GRAMMAR = Grammar(
    re.compile(r"person_(?P<identity>\d{1,9})\.(?:png|jpg|jpeg|bmp)", re.ASCII | re.IGNORECASE),
    "person_PPPP.png (identity; also .jpg, .bmp)",
)
HOLDS = f"the folder {FOLDER} with {CAMERAS[0]} and {CAMERAS[1]}"


def read_prid2011(root: Path, name: str, options: Options = frozenset()) -> Domain:
    """Return the domain in a folder with ``single_shot``, on one of ten splits.

    Of the 200 people in both cameras, 100 are learnt from and 100 are ranked: camera A (1) looks
    for them in camera B (2), where 549 people whom nobody looks for are in the gallery as well.
    With the option ``swapped`` B looks in A, whose own 185 people are in that gallery. The splits
    are those of ``splits/prid2011.json``; the usual ones are drawn at random on every machine, so
    that figures on these compare with others' in the mean over ten splits only.

    Crops are absolute paths, sorted by person. Identities are the numbers in the names, except
    that people of camera A alone, whose numbers are used again for others in B, are numbered on
    after camera B's, from 750. People of the camera that asks who are in no other are in no part.

    Raises FileNotFoundError when the root or a camera's folder is missing; ValueError when the
    root is a file, a file name is outside the grammar, one of the 200 is missing, somebody has
    two crops in a camera, or several splits are asked for, and for DukeMTMC.
    """
    root = opened_root(root)
    folders = [root / FOLDER / camera for camera in CAMERAS]
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{root} is not laid out like PRID2011, with {HOLDS}: give the folder that holds it"
            )
    seen = []
    for folder in folders:
        found = one_each(GRAMMAR.scan(folder))
        missing = sorted(set(range(1, SHARED + 1)) - found.keys())
        if missing:
            raise ValueError(
                f"{folder} lacks person {missing[0]:04}, and the splits need 1 to {SHARED}: unpack "
                "the set again"
            )
        seen.append({identity: path for identity, (path, _) in sorted(found.items())})
    tested = ten_splits("prid2011")[chosen_split(options) - 1]
    learnt = set(range(1, SHARED + 1)) - tested
    asking, asked = (1, 0) if SWAPPED in options else (0, 1)

    def part(chosen: Iterable[int], *sides: int) -> Crops:
        people = sorted(chosen)
        return crops(
            name,
            [seen[side][person] for person in people for side in sides],
            [_identity(person, side) for person in people for side in sides],
            [side + 1 for _ in people for side in sides],
        )

    return Domain(
        name, part(learnt, 0, 1), part(tested, asking), part(seen[asked].keys() - learnt, asked)
    )


def _identity(person: int, side: int) -> int:
    """Return one number for each person of both cameras."""
    alone_in_a = person > SHARED and side == 0
    return PEOPLE_B + person - SHARED if alone_in_a else person


PRID2011 = Layout(
    read_prid2011,
    HOLDS,
    options={SWAPPED: "look for people of camera B in camera A, not the other way round"},
    splits=SPLITS,
    counts={
        "": "train 200/100, query 100/100, gallery 649/649",
        SWAPPED: "train 200/100, query 100/100, gallery 285/285",
        "all": "train 949/749",
    },
)
