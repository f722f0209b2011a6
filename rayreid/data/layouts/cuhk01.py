"""The layout of CUHK01 (Li, Zhao and Wang, ACCV 2012): one folder, two views of 971 people."""

import re
from pathlib import Path

import numpy as np

from rayreid.batch import Domain
from rayreid.data.layouts.grammar import Grammar, Layout, Options, crops, kept, opened_root
from rayreid.data.layouts.splits import SPLITS, SWAPPED, chosen_split, lots, ten_splits

FOLDER = "campus"
PEOPLE, TEST_PEOPLE, IMAGES = 971, 486, 4
SEED = 1501

GRAMMAR = Grammar(
    re.compile(
        r"(?P<person>\d{4})(?P<image>00[1-4])\.(?:png|jpg|jpeg|bmp)", re.ASCII | re.IGNORECASE
    ),
    "PPPPIII.png (person, image 1 to 4)",
)
HOLDS = f"the folder {FOLDER}"


def read_cuhk01(root: Path, name: str, options: Options = frozenset()) -> Domain:
    """Return the domain in a folder with ``campus``, on one of ten splits.

    Images 1 and 2 of a person are of one view (camera 1), 3 and 4 of the other (camera 2). As in
    torchreid, 485 people are learnt from and 486 are ranked, with both crops of a view in the
    query and both of the other in the gallery (multi-shot): view 1 looks for people in view 2, or
    the other way round with the option ``swapped``. Its splits come from a generator without a
    seed and differ from machine to machine; those read here are the same everywhere (see
    `drawn_splits`), so figures on them compare with others on them, and with other papers' in the
    mean only.

    Crops are absolute paths sorted by name, identities and cameras as told.

    Raises FileNotFoundError when the root, its folder or a crop of a person is missing;
    ValueError when the root is a file, a file name is outside the grammar, people are not
    numbered from 1 to 971 or several splits are asked for, and for DukeMTMC.
    """
    root = opened_root(root)
    if not (root / FOLDER).is_dir():
        raise FileNotFoundError(
            f"{root} is not laid out like CUHK01, with {HOLDS}: give the folder that holds it"
        )
    found = GRAMMAR.scan(root / FOLDER)
    there = {(int(told["person"]), int(told["image"])) for _, told in found}
    expected = {(person, n + 1) for person in range(1, PEOPLE + 1) for n in range(IMAGES)}
    if there - expected:
        raise ValueError(
            f"{root / FOLDER} has crops of person {min(there - expected)[0]}, but CUHK01's people "
            f"are 1 to {PEOPLE}: give the folder of that set"
        )
    if expected - there:
        person, image = min(expected - there)
        raise FileNotFoundError(
            f"{root / FOLDER} lacks {len(expected - there)} crops of CUHK01, "
            f"{person:04}{image:03} for one, and its splits need all: unpack the set again"
        )
    every = crops(
        name,
        [path for path, _ in found],
        [int(told["person"]) for _, told in found],
        [1 + (int(told["image"]) - 1) // 2 for _, told in found],
    )
    test = np.isin(every.identities, list(ten_splits("cuhk01")[chosen_split(options) - 1]))
    asking = every.cameras == (2 if SWAPPED in options else 1)
    return Domain(name, kept(every, ~test), kept(every, test & asking), kept(every, test & ~asking))


def drawn_splits() -> list[list[int]]:
    """Return the test people of the ten splits, drawn anew as for ``splits/cuhk01.json``.

    In each split everybody gets one of `lots`, seeded by the split and 1501, and the 486 with the
    smallest are tested. Printed by
    ``python -c "from rayreid.data.layouts import cuhk01; print(cuhk01.drawn_splits())"``.
    """
    rows = []
    for split in range(1, SPLITS + 1):
        drawn = np.argsort(lots(PEOPLE, split, SEED), kind="stable")[:TEST_PEOPLE]
        rows.append(sorted((drawn + 1).tolist()))
    return rows


CUHK01 = Layout(
    read_cuhk01,
    HOLDS,
    options={SWAPPED: "look for people of the second view in the first, not the other way round"},
    splits=SPLITS,
    counts={
        "": "train 1940/485, query 972/486, gallery 972/486",
        SWAPPED: "train 1940/485, query 972/486, gallery 972/486",
        "all": "train 3884/971",
    },
    shares_people_with=frozenset({"cuhk02"}),
)
