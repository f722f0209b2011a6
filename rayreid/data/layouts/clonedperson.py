"""The layout of ClonedPerson (Wang, Liang and Liao, CVPR 2022): rendered people in real outfits."""

import re
from pathlib import Path

from rayreid.batch import Crops, Domain
from rayreid.data.layouts.grammar import JUNK, Grammar, Layout, Options, crops, opened_root

TRAIN, QUERY, GALLERY = "train", "test/query", "test/gallery"
FRAMES_A_SECOND = 24
CAMERAS_A_SCENE = 100
"""More than the names' two digits can count."""

GRAMMAR = Grammar(
    re.compile(
        r"(?P<identity>-1|\d{1,9})_s(?P<scene>\d{2})_c(?P<camera>\d{2})_f(?P<frame>\d{1,9})"
        r"\.(?:jpg|jpeg|png)",
        re.ASCII | re.IGNORECASE,
    ),
    "PPPPPP_sSS_cCC_fFFFFFF.jpg (identity, scene, camera, frame; also .png)",
)
HOLDS = f"the folders {TRAIN}, {QUERY} and {GALLERY}"


def read_clonedperson(root: Path, name: str, _options: Options = frozenset()) -> Domain:
    """Return the domain in a folder with ``train``, ``test/query`` and ``test/gallery``.

    Crops are absolute paths sorted by name; identities are those in the names, and -1 is dropped.
    A camera is one of a scene: ``s06_c02`` is camera 602. (QAConv's reader takes every scene for
    the same one, so that crops of different places count as of the same camera, and good matches
    are removed as trivial.) Times are frames, 24 a second.

    Raises FileNotFoundError when the root or a folder is missing; ValueError when the root is a
    file, a folder holds no crops or a file name is outside the grammar, and for DukeMTMC.
    """
    root = opened_root(root)
    for folder in (TRAIN, QUERY, GALLERY):
        if not (root / folder).is_dir():
            raise FileNotFoundError(
                f"{root} is not laid out like ClonedPerson, with {HOLDS}: give the folder that "
                "holds them (its demonstration, with bounding_box_test, is read as market1501=)"
            )
    train, query, gallery = (_read(root / folder, name) for folder in (TRAIN, QUERY, GALLERY))
    return Domain(name, train, query, gallery)


def _read(folder: Path, domain: str) -> Crops:
    found = [(path, told) for path, told in GRAMMAR.scan(folder) if int(told["identity"]) != JUNK]
    if not found:
        raise ValueError(f"{folder} holds no crops: unpack ClonedPerson again or check the path")
    return crops(
        domain,
        [path for path, _ in found],
        [int(told["identity"]) for _, told in found],
        [CAMERAS_A_SCENE * int(told["scene"]) + int(told["camera"]) for _, told in found],
        [int(told["frame"]) / FRAMES_A_SECOND for _, told in found],
    )


CLONEDPERSON = Layout(read_clonedperson, HOLDS)
