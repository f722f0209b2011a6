"""Published splits of the small sets: who is tested in each of ten, the same for everybody.

VIPeR, PRID2011, i-LIDS and WARD are evaluated on random halves of their people, and the usual
loaders draw them at first use, without a seed: two papers seldom test the same people. Here the
ten draws are files of the package, ``splits/<set>.json``, and `published` says how each was made.
"""

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt64

from rayreid.data.layouts.grammar import Options

SPLITS = 10


class Draw(NamedTuple):
    """How the splits of a set were drawn: its people, how many are tested, and the seed."""

    people: int
    tested: int
    seed: int


DRAWS = {
    "viper": Draw(632, 316, seed=1),
    "prid2011": Draw(200, 100, seed=2),
    "ilids": Draw(119, 60, seed=3),
    "ward": Draw(70, 35, seed=4),
}

SWAPPED = "swapped"
"""The option of sets with two sides to look from the other one."""


def ten_splits(name: str) -> tuple[frozenset[int], ...]:
    """Return the numbers of the people who are tested in each published split of a set."""
    text = files("rayreid.data.layouts").joinpath("splits", f"{name}.json").read_text("utf-8")
    return tuple(frozenset(tested) for tested in json.loads(text)["test"])


def published(name: str) -> str:
    """Return the text of a set's file of splits, drawn anew.

    In each split everybody gets a `lot`, and those with the smallest are tested.
    """
    people, tested, seed = DRAWS[name]
    rows = []
    for split in range(1, SPLITS + 1):
        drawn = np.argsort(lots(people, split, seed), kind="stable")[:tested]
        rows.append(f"    {sorted((drawn + 1).tolist())}")
    return "\n".join(
        [
            "{",
            '  "version": 1,',
            f'  "seed": {seed},',
            '  "test": [',
            ",\n".join(rows),
            "  ]",
            "}\n",
        ]
    )


def lots(count: int, *seed: int) -> UInt64[np.ndarray, " count"]:
    """Return random numbers that stay the same for ever.

    They are PCG64's raw output, which numpy promises to keep; `numpy.random.Generator` may change.
    """
    drawn: UInt64[np.ndarray, " count"] = np.random.PCG64(seed).random_raw(count)
    return drawn


def chosen_split(options: Options) -> int:
    """Return the split, from 1, that the words after a layout's name choose; 1 where none does.

    Raises ValueError where they choose more than one.
    """
    chosen = sorted(int(word) for word in options if word.isdecimal())
    if len(chosen) > 1:
        raise ValueError(
            f"splits {' and '.join(map(str, chosen))} are asked for, and a set is read by one: "
            "choose one"
        )
    return chosen[0] if chosen else 1


def numbered(found: Iterable[int], name: str, folder: Path) -> dict[int, int]:
    """Return the number, from 1 in sorted order, of each identity that the names of a set hold.

    The published splits name people by these numbers. Raises ValueError where not all people of
    the set are there, since the numbers would be other people's.
    """
    identities = sorted(set(found))
    if len(identities) != DRAWS[name].people:
        raise ValueError(
            f"{folder} shows {len(identities)} people, not the {DRAWS[name].people} that the "
            f"splits of {name} divide: unpack the set again"
        )
    return {identity: number for number, identity in enumerate(identities, start=1)}


def one_each(
    found: Iterable[tuple[Path, dict[str, str]]],
) -> dict[int, tuple[Path, dict[str, str]]]:
    """Return the only crop of each identity in a folder, as `Grammar.scan` found it.

    Raises ValueError for a second crop of somebody.
    """
    people: dict[int, tuple[Path, dict[str, str]]] = {}
    for path, told in found:
        identity = int(told["identity"])
        if identity in people:
            raise ValueError(
                f"{path} and {people[identity][0].name} show the same person, who has one crop in "
                "this folder: remove one"
            )
        people[identity] = path, told
    return people
