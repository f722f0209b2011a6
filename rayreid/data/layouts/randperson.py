"""The layout of RandPerson (Wang, Liao and Shao, ACM MM 2020): rendered people in 11 scenes."""

import re
from pathlib import Path

from rayreid.batch import Domain
from rayreid.data.layouts.grammar import Grammar, Layout, Options, crops, none, opened_root

FOLDER = "randperson_subset"

FIRST_CAMERA = 0, 2, 4, 6, 8, 9, 10, 12, 13, 14, 15
"""Number of the first camera of each scene, as QAConv counts them: names count anew in each."""
FRAMES_A_SECOND = 24

GRAMMAR = Grammar(
    re.compile(
        r"(?P<identity>\d{1,9})_s(?P<scene>\d{1,9})_c(?P<camera>\d{1,9})_f(?P<frame>\d{1,9})"
        r"\.(?:jpg|jpeg|png)",
        re.ASCII | re.IGNORECASE,
    ),
    "PPPPPP_sSS_cCC_fFFFFFF.jpg (identity, scene, camera, frame; also .png)",
)
HOLDS = f"the folder {FOLDER}, or the crops themselves, {GRAMMAR.words}"


def read_randperson(root: Path, name: str, _options: Options = frozenset()) -> Domain:
    """Return the domain in a folder with ``randperson_subset``, or in the folder of crops itself.

    Everybody is learnt from: the set has no query and no gallery. The whole set, ``images`` with
    archives by scene and camera, is read once its crops are unpacked into one folder.

    Crops are absolute paths sorted by name. People count from 0 in the names and from 1 here.
    Cameras count over all scenes, from 0: the scene's first one (`FIRST_CAMERA`) plus that in the
    name. Times are frames, 24 a second.

    Raises FileNotFoundError when the root is missing or holds other folders; ValueError when it is
    a file or holds no crops, a file name is outside the grammar, or its scene or camera is none of
    the set's, and for DukeMTMC.
    """
    root = opened_root(root)
    folder = root / FOLDER if (root / FOLDER).is_dir() else root
    if any(path.is_dir() for path in folder.iterdir()):
        raise FileNotFoundError(
            f"{folder} is not laid out like RandPerson, with {HOLDS}: give the folder that holds it"
        )
    images, people, cameras, times = [], [], [], []
    for path, told in GRAMMAR.scan(folder):
        images.append(path)
        people.append(int(told["identity"]) + 1)
        cameras.append(_camera(path, int(told["scene"]), int(told["camera"])))
        times.append(int(told["frame"]) / FRAMES_A_SECOND)
    if not images:
        raise ValueError(
            f"{folder} holds no crops: RandPerson is {HOLDS}; unpack it again or check the path"
        )
    return Domain(name, crops(name, images, people, cameras, times), none(name), none(name))


def _camera(path: Path, scene: int, camera: int) -> int:
    if scene >= len(FIRST_CAMERA):
        raise ValueError(f"{path} names scene {scene}, but RandPerson's are 0 to 10: remove it")
    number = FIRST_CAMERA[scene] + camera
    if number >= min(FIRST_CAMERA[scene + 1 :], default=number + 1):
        raise ValueError(
            f"{path} names camera {camera} of scene {scene}, which has no such one: remove it"
        )
    return number


RANDPERSON = Layout(
    read_randperson,
    HOLDS,
    train_only=True,
    counts={"": "train 132145", "all": "train 132145"},
)
