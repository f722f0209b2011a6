"""The layout of QMUL GRID (Loy, Liu and Gong, ICIP 2013): 250 pairs among underground cameras."""

import re
from pathlib import Path

import numpy as np

from rayreid.batch import Domain
from rayreid.data.layouts.grammar import (
    NOBODY,
    Grammar,
    Layout,
    Options,
    crops,
    joined,
    kept,
    opened_root,
)
from rayreid.data.layouts.splits import SPLITS, SWAPPED, chosen_split, one_each

PROBE, GALLERY = "probe", "gallery"
PARTITIONS = "features_and_partitions.mat"
MAX_PARTITIONS_BYTES = 500_000_000
"""The file holds features of 1,275 images as well."""

GRAMMAR = Grammar(
    re.compile(
        r"(?P<identity>\d{1,9})_(?P<camera>\d{1,9})_.+\.(?:jpeg|jpg|png|bmp)",
        re.ASCII | re.IGNORECASE,
    ),
    "PPPP_C_*.jpeg (identity, camera; also .jpg, .png)",
)
HOLDS = f"the folders {PROBE} and {GALLERY} and the file {PARTITIONS}"


def read_grid(root: Path, name: str, options: Options = frozenset()) -> Domain:
    """Return the domain in a folder with ``probe`` and ``gallery``, on one of its ten splits.

    Of 250 people with a crop in each folder, 125 are learnt from and 125 are ranked; the splits
    are the set's own, in ``features_and_partitions.mat`` (MATLAB 5: variable ``trainIdxAll``,
    whose cells hold the numbers of the training people as ``personIdx``). The 775 crops of
    identity 0 are distractors of every gallery; with the option ``swapped``, which lets the crops
    of the ranked people change places, too.

    Crops are absolute paths, sorted by name. Identities and cameras are those in the names.

    Raises FileNotFoundError when the root, a folder or the file of splits is missing; ValueError
    when the root is a file, a file name is outside the grammar, somebody is in one folder only or
    has two crops in it, the splits cannot be read or are of other people, or several are asked
    for, and for DukeMTMC.
    """
    root = opened_root(root)
    for folder in (PROBE, GALLERY):
        if not (root / folder).is_dir():
            raise FileNotFoundError(
                f"{root} is not laid out like GRID, with {HOLDS}: give the folder that holds them"
            )
    found = {folder: GRAMMAR.scan(root / folder) for folder in (PROBE, GALLERY)}
    people = {
        folder: one_each([crop for crop in found[folder] if int(crop[1]["identity"]) != NOBODY])
        for folder in found
    }
    alone = sorted(people[PROBE].keys() ^ people[GALLERY].keys())
    if alone:
        raise ValueError(
            f"{root} shows person {alone[0]:04} in one of {PROBE} and {GALLERY} only: unpack the "
            "set again"
        )
    learnt = _training_people(root / PARTITIONS, chosen_split(options))
    strangers = sorted(learnt - people[PROBE].keys())
    if strangers:
        raise ValueError(
            f"{root / PARTITIONS} names person {strangers[0]}, whom no crop shows: unpack the set "
            "again"
        )
    sides = {
        folder: crops(
            name,
            [path for path, _ in found[folder]],
            [int(told["identity"]) for _, told in found[folder]],
            [int(told["camera"]) for _, told in found[folder]],
        )
        for folder in found
    }
    every = joined(name, [sides[PROBE], sides[GALLERY]])
    in_probe = np.arange(len(every)) < len(sides[PROBE])
    nobody = every.identities == NOBODY
    train = np.isin(every.identities, sorted(learnt))
    asking = ~in_probe if SWAPPED in options else in_probe
    return Domain(
        name,
        kept(every, train),
        kept(every, ~train & ~nobody & asking),
        kept(every, ~train & (nobody | ~asking)),
    )


def _training_people(file: Path, split: int) -> set[int]:
    """Return the numbers of the people to learn from in a split of the set's own."""
    from scipy.io import loadmat

    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}, which holds GRID's splits: unpack it again")
    if file.stat().st_size > MAX_PARTITIONS_BYTES:
        raise ValueError(f"{file} has more bytes than GRID's splits can have: unpack it again")
    try:
        cells = loadmat(str(file), variable_names=["trainIdxAll"])["trainIdxAll"].ravel()
        people = {int(person) for person in cells[split - 1]["personIdx"][0, 0].ravel()}
    except Exception as error:  # loadmat raises whatever its parsers come to.
        raise ValueError(
            f"{file} does not hold GRID's ten splits as MATLAB 5 wrote them "
            f"({type(error).__name__}): unpack it again"
        ) from error
    if not people:
        raise ValueError(f"{file} has nobody to learn from in split {split}: unpack it again")
    return people


GRID = Layout(
    read_grid,
    HOLDS,
    options={SWAPPED: "the crops of the ranked people in the query and the gallery change places"},
    splits=SPLITS,
    counts={
        "": "train 250/125, query 125/125, gallery 900",
        SWAPPED: "train 250/125, query 125/125, gallery 900",
        "all": "train 500/250",
    },
)
