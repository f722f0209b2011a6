"""The layout of WARD (Martinel and Micheloni, CVPRW 2012): tracks of 70 people, 3 cameras."""

import re
from pathlib import Path

import numpy as np

from rayreid.batch import Domain
from rayreid.data.layouts.grammar import Grammar, Layout, Options, crops, kept, opened_root
from rayreid.data.layouts.splits import SPLITS, chosen_split, numbered, ten_splits

GRAMMAR = Grammar(
    re.compile(
        r"(?P<identity>\d{4})(?P<camera>\d{4})(?P<frame>\d{4})\.(?:png|jpg|jpeg|bmp)",
        re.ASCII | re.IGNORECASE,
    ),
    "PPPPCCCCFFFF.png (identity, camera, frame; also .jpg, .bmp)",
)
HOLDS = "the crops themselves, named PPPPCCCCFFFF.png"


def read_ward(root: Path, name: str, options: Options = frozenset()) -> Domain:
    """Return the domain in a folder of crops, on one of ten splits.

    Half of the people, 35, are learnt from, and 35 are ranked: the first crop of each of them in
    each camera is a query, and their other crops are the gallery, as in Market-1501. The splits
    are those of ``splits/ward.json``. Papers on WARD compare pairs of its cameras, each in its
    own way: figures on these splits do not compare with theirs.

    Crops are absolute paths, sorted by name. People are numbered from 1 in the order of their
    numbers; cameras are those in the names.

    Raises FileNotFoundError when the root is missing or holds folders; ValueError when it is a
    file, a file name is outside the grammar, somebody is missing or several splits are asked for,
    and for DukeMTMC.
    """
    root = opened_root(root)
    if any(path.is_dir() for path in root.iterdir()):
        raise FileNotFoundError(
            f"{root} is not laid out like WARD, with {HOLDS}: give the folder that holds them"
        )
    found = GRAMMAR.scan(root)
    people = numbered((int(told["identity"]) for _, told in found), "ward", root)
    every = crops(
        name,
        [path for path, _ in found],
        [people[int(told["identity"])] for _, told in found],
        [int(told["camera"]) for _, told in found],
    )
    tested = np.isin(every.identities, sorted(ten_splits("ward")[chosen_split(options) - 1]))
    # Sorted by name, the first of a person in a camera is its first frame.
    tracks = np.stack([every.identities, every.cameras])
    first = np.zeros(len(every), dtype=bool)
    first[np.unique(tracks, axis=1, return_index=True)[1]] = True
    return Domain(
        name, kept(every, ~tested), kept(every, tested & first), kept(every, tested & ~first)
    )


WARD = Layout(
    read_ward,
    HOLDS,
    splits=SPLITS,
    counts={"": "query 105/35"},
)
