"""The layout of PersonX (Sun and Zheng, CVPR 2019): rendered people, 36 views, 6 backgrounds."""

import re
from pathlib import Path

from rayreid.batch import Crops, Domain
from rayreid.data.layouts.grammar import Grammar, Layout, Options, crops, joined, opened_root

BACKGROUNDS = {f"background{number}": number for number in range(1, 7)}
PARTS = TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"

GRAMMAR = Grammar(
    re.compile(
        r"(?P<identity>\d{1,9})_c\d{1,9}s\d{1,9}_(?P<view>\d{1,9})\.(?:jpg|jpeg|png)",
        re.ASCII | re.IGNORECASE,
    ),
    "PPPP_cCsS_VV.jpg (identity, camera, sequence, viewpoint; also .png)",
)
HOLDS = f"the folders 1 to 6 (backgrounds), each with {TRAIN}, {QUERY} and {GALLERY}"


def read_personx(root: Path, name: str, options: Options = frozenset()) -> Domain:
    """Return the domain in a folder with ``1`` to ``6``, a folder for each background.

    All backgrounds that are there are read, or those that options name: ``background4,
    background5,background6`` are the three scenes, 1 to 3 the plain colours (PersonX456 and
    PersonX123 in papers). Each shows the same people, from the same 36 viewpoints.

    Crops are absolute paths sorted by background, then by name; identities are those in the
    names, and the camera is the background's folder.

    Raises FileNotFoundError when the root, its backgrounds, one that is asked for or a folder in
    one is missing; ValueError when the root is a file, a folder holds no crops or a file name is
    outside the grammar, and for DukeMTMC.
    """
    root = opened_root(root)
    there = [number for number in BACKGROUNDS.values() if (root / str(number)).is_dir()]
    if not there:
        raise FileNotFoundError(
            f"{root} is not laid out like PersonX, with {HOLDS}: give the folder that holds them"
        )
    asked = sorted(BACKGROUNDS[option] for option in options)
    for number in asked:
        if number not in there:
            raise FileNotFoundError(
                f"{root} holds no background {number}, which is asked for: unpack it, or ask for "
                "others"
            )
    train, query, gallery = (
        joined(name, [_read(root / str(number) / part, name, number) for number in asked or there])
        for part in PARTS
    )
    return Domain(name, train, query, gallery)


def _read(folder: Path, domain: str, background: int) -> Crops:
    found = GRAMMAR.scan(folder)
    if not found:
        raise ValueError(f"{folder} holds no crops: unpack PersonX again or check the path")
    return crops(
        domain,
        [path for path, _ in found],
        [int(told["identity"]) for _, told in found],
        [background] * len(found),
    )


PERSONX = Layout(
    read_personx,
    HOLDS,
    options={
        word: f"background {number}, and no other unless named too"
        for word, number in BACKGROUNDS.items()
    },
)
