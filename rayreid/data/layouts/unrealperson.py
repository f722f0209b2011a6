"""The layout of UnrealPerson (Zhang et al., CVPR 2021): rendered people in four environments."""

import re
from pathlib import Path

from rayreid.batch import Domain
from rayreid.data.layouts.grammar import Grammar, Layout, Options, crops, none, opened_root

FOLDER = re.compile(r"unreal_v(?P<environment>\d{1,9})\.(?P<models>\d{1,9})", re.ASCII)

GRAMMAR = Grammar(
    re.compile(
        r"(?P<person>\d{1,9})_c(?P<camera>\d{1,9})_(?P<frame>\d{1,9})\.(?:jpg|jpeg|png)",
        re.ASCII | re.IGNORECASE,
    ),
    "P_cCCC_F.jpg (person, camera, frame; also .png)",
)
HOLDS = "folders unreal_vX.Y (environment X, version Y of the people), each with images"


def read_unrealperson(root: Path, name: str, _options: Options = frozenset()) -> Domain:
    """Return the domain in a folder with ``unreal_vX.Y/images`` for some X and Y.

    Everybody is learnt from: the set has no query and no gallery. A person is a number and a
    version of the people, Y; a camera is a number and an environment, X: bare numbers are used
    again. People, and cameras, are numbered from 1 in the order of (Y, number) and (X, number),
    of those that are there.

    Crops are absolute paths sorted by folder, then by name.

    Raises FileNotFoundError when the root or its folders are missing; ValueError when the root
    is a file, a folder holds no crops or a file name is outside the grammar, and for DukeMTMC.
    """
    root = opened_root(root)
    folders = [
        (path, match)
        for path in sorted(root.iterdir())
        if path.is_dir() and (match := FOLDER.fullmatch(path.name))
    ]
    if not folders:
        raise FileNotFoundError(
            f"{root} is not laid out like UnrealPerson, with {HOLDS}: give the folder that holds "
            "them"
        )
    images, people, cameras = [], [], []
    for folder, match in folders:
        found = GRAMMAR.scan(folder / "images")
        if not found:
            raise ValueError(f"{folder / 'images'} holds no crops: unpack UnrealPerson again")
        images += [path for path, _ in found]
        people += [(int(match["models"]), int(told["person"])) for _, told in found]
        cameras += [(int(match["environment"]), int(told["camera"])) for _, told in found]
    train = crops(name, images, _numbers(people), _numbers(cameras))
    return Domain(name, train, none(name), none(name))


def _numbers(pairs: list[tuple[int, int]]) -> list[int]:
    """Return the number of each pair, from 1 in sorted order."""
    number = {pair: n for n, pair in enumerate(sorted(set(pairs)), start=1)}
    return [number[pair] for pair in pairs]


UNREALPERSON = Layout(read_unrealperson, HOLDS, train_only=True)
