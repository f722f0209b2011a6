"""The layout of QMUL i-LIDS (Zheng, Gong and Xiang, BMVC 2009): a few crops of 119 people."""

import re
from pathlib import Path

import numpy as np

from rayreid.batch import Domain
from rayreid.data.layouts.grammar import Grammar, Layout, Options, crops, kept, opened_root
from rayreid.data.layouts.splits import (
    DRAWS,
    SPLITS,
    SWAPPED,
    chosen_split,
    lots,
    numbered,
    ten_splits,
)

FOLDERS = "Persons", "images"

GRAMMAR = Grammar(
    re.compile(
        r"(?P<identity>\d{4})(?P<image>\d{3})\.(?:jpg|jpeg|png|bmp)", re.ASCII | re.IGNORECASE
    ),
    "PPPPIII.jpg (identity, image; also .png, .bmp)",
)
HOLDS = f"the folder {FOLDERS[0]} (or {FOLDERS[1]})"


def read_ilids(root: Path, name: str, options: Options = frozenset()) -> Domain:
    """Return the domain in a folder with ``Persons`` or ``images``, on one of ten splits.

    All crops of 59 people are learnt from; of each of the other 60, one crop is in the query and
    one in the gallery, and the option ``swapped`` lets the two change places. People and crops
    are drawn, but the same everywhere: people by ``splits/ilids.json``, a crop by the `lots` of
    its split, person and number, so that it does not depend on what else is in the folder. The
    usual splits are drawn anew on every machine, so that figures on these compare with others' in
    the mean over ten splits only.

    Crops are absolute paths, sorted by name. People are numbered from 1 in the order of their
    numbers. No file tells the camera: as in the usual loaders, camera is the number of the image,
    so that no match is taken for one of the same camera.

    Raises FileNotFoundError when the root or its folder is missing; ValueError when the root is a
    file, a file name is outside the grammar, somebody is missing, has two crops of one number or
    is ranked with one crop only, or several splits are asked for, and for DukeMTMC.
    """
    root = opened_root(root)
    folder = next((root / folder for folder in FOLDERS if (root / folder).is_dir()), None)
    if folder is None:
        raise FileNotFoundError(
            f"{root} is not laid out like i-LIDS, with {HOLDS}: give the folder that holds it"
        )
    found = [
        (path, int(told["identity"]), int(told["image"])) for path, told in GRAMMAR.scan(folder)
    ]
    people = numbered((identity for _, identity, _ in found), "ilids", folder)
    split = chosen_split(options)
    tested = ten_splits("ilids")[split - 1]

    drawn: dict[int, list[tuple[int, int]]] = {number: [] for number in sorted(tested)}
    there = set()
    for index, (path, identity, image) in enumerate(found):
        number = people[identity]
        if (number, image) in there:
            raise ValueError(f"{path} has a namesake with another ending: remove one")
        there.add((number, image))
        if number in tested:
            (lot,) = lots(1, DRAWS["ilids"].seed, split, number, image)
            drawn[number].append((int(lot), index))
    for own in drawn.values():
        if len(own) < 2:
            raise ValueError(
                f"{found[own[0][1]][0]} is the only crop of its person, who is ranked in split "
                f"{split} and needs two: unpack the set again"
            )
    pairs = [[index for _, index in sorted(own)[:2]] for own in drawn.values()]
    query, gallery = (np.array(side) for side in zip(*pairs, strict=True))
    if SWAPPED in options:
        query, gallery = gallery, query

    numbers = [people[identity] for _, identity, _ in found]
    every = crops(name, [path for path, _, _ in found], numbers, [image for _, _, image in found])
    train = ~np.isin(every.identities, sorted(tested))
    return Domain(name, kept(every, train), kept(every, query), kept(every, gallery))


ILIDS = Layout(
    read_ilids,
    HOLDS,
    options={SWAPPED: "the query and the gallery change places"},
    splits=SPLITS,
    counts={
        "": "query 60/60, gallery 60/60",
        SWAPPED: "query 60/60, gallery 60/60",
    },
)
