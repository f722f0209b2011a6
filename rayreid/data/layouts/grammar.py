"""What folder grammars share: named crops, who counts as a person, whole sets, refusals."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rayreid.batch import Crops, Domain, Picture

JUNK = -1
"""Identity of boxes that are neither right nor wrong: readers drop them."""
NOBODY = 0
"""Identity of distractors: negatives in a gallery, nobody to learn or to look for."""

Options = frozenset[str]
"""Words after a layout's name, ``layout:word,word``, that say how the set is read."""

_NOT_CROPS = {"thumbs.db", "desktop.ini"}
_WITHDRAWN = re.compile(r"duke[-_ ]?mtmc", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """A public set's folder grammar.

    ``read(root, name, options)`` opens it: identities number the people from 1 (`NOBODY` in the
    gallery is a distractor), crops are absolute paths in a fixed order. It raises ValueError or
    FileNotFoundError, in a sentence, for a folder that is not laid out so.
    """

    read: Callable[[Path, str, Options], Domain]
    holds: str
    """What the folder holds, for a user who looks for the right one."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Words that change how it is read, and what each does."""
    splits: int = 0
    """Published splits: the words ``1`` to this number choose one; 1 is the default."""
    splits_with: str = ""
    """The option under which there are splits, where there are none without it."""
    counts: Mapping[str, str] = field(default_factory=dict)
    """Of the full set, for each way to read it (options joined by commas, "" = none): crops and
    people of the parts that are known, as ``train 12936/751, query 3368/750, gallery 15913``."""
    train_only: bool = False
    """Whether the set has nobody to rank, however it is read."""
    shares_people_with: frozenset[str] = frozenset()
    """Layouts of sets in which some of the same people are: never source and target together."""


@dataclass(frozen=True)
class Grammar:
    """How the files of a folder are named: a pattern with named groups, and it in words."""

    pattern: re.Pattern[str]
    words: str

    def scan(self, folder: Path) -> list[tuple[Path, dict[str, str]]]:
        """Return the crops in a folder, sorted by name, each with the groups of its name.

        Hidden files and those of file managers are passed over. Raises FileNotFoundError where
        there is no such folder, ValueError for a file in its place or one outside the grammar.
        """
        if not folder.exists():
            raise FileNotFoundError(f"there is no folder {folder}: unpack the set again")
        if not folder.is_dir():
            raise ValueError(
                f"{folder} is a file, where a folder of crops was expected: replace it"
            )
        found = []
        for path in sorted(folder.iterdir(), key=lambda path: path.name):
            if path.name.startswith(".") or path.name.lower() in _NOT_CROPS:
                continue
            match = self.pattern.fullmatch(path.name)
            if match is None:
                raise ValueError(
                    f"{path} is not named like a crop of this set, {self.words}: "
                    "rename or remove it"
                )
            found.append((path, match.groupdict()))
        return found


def opened_root(root: Path) -> Path:
    """Return the absolute folder of a set.

    Raises FileNotFoundError where there is none, ValueError where it is a file, and for
    DukeMTMC, which its authors have withdrawn.
    """
    if _WITHDRAWN.search(root.absolute().name) or _WITHDRAWN.search(root.resolve().name):
        raise ValueError(
            f"{root} is named like DukeMTMC, which is not read: it shows people recorded without "
            "their consent and was withdrawn by its authors in 2019; use another set"
        )
    root = root.absolute()
    if not root.exists():
        raise FileNotFoundError(f"no data set at {root}: there is no such folder; check the path")
    if not root.is_dir():
        raise ValueError(f"{root} is a file, not a data set: unpack it and give the folder")
    return root


def crops(
    domain: str,
    images: Sequence[Path | Picture],
    identities: Sequence[int],
    cameras: Sequence[int],
    times: Sequence[float] | None = None,
) -> Crops:
    """Return columns as crops."""
    return Crops(
        domain,
        list(images),
        np.array(identities, dtype=np.int64),
        np.array(cameras, dtype=np.int64),
        None if times is None else np.array(times, dtype=np.float64),
    )


def none(domain: str) -> Crops:
    """Return no crops."""
    return crops(domain, [], [], [])


def kept(part: Crops, chosen: np.ndarray) -> Crops:
    """Return the crops that a mask, or indices, choose."""
    indices = np.arange(len(part))[chosen]
    images = (
        part.images[indices]
        if isinstance(part.images, np.ndarray)
        else [part.images[i] for i in indices]
    )
    times = None if part.times is None else part.times[indices]
    return replace(
        part,
        images=images,
        identities=part.identities[indices],
        cameras=part.cameras[indices],
        times=times,
    )


def joined(domain: str, parts: Sequence[Crops]) -> Crops:
    """Return the crops of several parts as one; times only where all parts have them."""
    images = [image for part in parts for image in part.images]
    times = [part.times for part in parts if part.times is not None]
    return Crops(
        domain,
        images,
        np.concatenate([part.identities for part in parts]),
        np.concatenate([part.cameras for part in parts]),
        np.concatenate(times) if len(times) == len(parts) else None,
    )


def everybody(domain: Domain) -> Domain:
    """Return a domain with the people of all its parts to learn from, and nobody to rank.

    For protocols that train on whole sets, and sets that come without a training split. Raises
    ValueError where a number is used both in the training part and outside it.
    """
    test = np.union1d(domain.query.identities, domain.gallery.identities)
    both = np.setdiff1d(np.intersect1d(domain.train.identities, test), [NOBODY])
    if len(both):
        raise ValueError(
            f"{domain.name} has identity {both[0]} both among its training crops and among its "
            "query or gallery crops: numbers may begin anew there, so that people cannot be told "
            "apart; read it without the option all"
        )
    every = joined(domain.name, [part for part in _parts(domain) if len(part)])
    # Where the query is the gallery too, its crops are learnt once.
    first = {image: i for i, image in reversed(list(enumerate(every.images)))}
    known = [i for i in sorted(first.values()) if every.identities[i] != NOBODY]
    return Domain(
        domain.name, kept(every, np.array(known, int)), none(domain.name), none(domain.name)
    )


def _parts(domain: Domain) -> tuple[Crops, Crops, Crops]:
    return domain.train, domain.query, domain.gallery
