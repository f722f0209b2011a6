"""Folders of people: one's own crops, sorted by who is on them."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rayreid.batch import Crops, Domain
from rayreid.data.layouts.grammar import Grammar, Layout, Options, crops, opened_root

PARTS = TRAIN, QUERY, GALLERY = "train", "query", "gallery"
RANK, CAMERAS, NO_CAMERAS = "rank", "cameras", "nocameras"

GRAMMAR = Grammar(
    re.compile(r".+\.(?:jpg|jpeg|png|bmp|webp)", re.IGNORECASE | re.DOTALL),
    "NAME.jpg (or .jpeg, .png, .bmp, .webp)",
)
# As in 0001_c2s1_000451_03.jpg, c3-17.png, walk.CAM12.bmp; not in abc3.jpg, c3b.jpg.
CAMERA_IN_NAME = re.compile(
    r"(?<![^\W_])c(?:am(?:era)?)?(?P<camera>\d{1,9})(?=[\W_]|s\d)", re.IGNORECASE
)
# What other sets call the folders that people, or crops of all people, lie in.
NO_PERSON = {"cam_a", "cam_b", "single_shot", "multi_shot", "campus", "persons"}
NO_PLACE = {*PARTS, "test", "images", "bounding_box_train", "bounding_box_test"}

HOLDS = f"a folder of crops for each person, or {TRAIN}, {QUERY} and {GALLERY} with such folders"


class _Crop(NamedTuple):
    path: Path
    part: str
    person: str
    place: str
    """Folder in the person's folder; empty where crops lie in that one."""


def read_people(root: Path, name: str, options: Options = frozenset()) -> Domain:
    """Return the domain in a folder with a folder for each person, named in any alphabet.

    A person's folder holds crops, or folders of crops. The folders of people lie in the root, and
    everybody is learnt from; or in ``train``, ``query`` and ``gallery`` in the root, of which
    ``train`` may be missing, or both others. With the option ``rank``, where there are no such
    three, nobody is learnt from: the first crop of each person is the query, and the others are
    the gallery.

    Cameras are numbers in the file names (``c2``, ``cam2`` or ``camera2`` apart from other letters
    and digits, or as in ``c2s1``), if every name holds one. With the option ``cameras`` they are
    the folders in the people's folders, numbered from 1 in the order of all their names. Where no
    camera is known, and with the option ``nocameras``, every crop is of a camera of its own, so
    that ranking removes no match for being of the query's camera: crops of the same moment are
    then matches, and easy ones, and figures do not compare with those of sets that know cameras.

    Crops are absolute paths sorted by part, person and name. People are numbered from 1 in the
    order of all their names; one name is one person, in whatever part.

    Raises FileNotFoundError when the root, all folders in it or one of ``query`` and ``gallery``
    are missing; ValueError when the root is a file, a crop is in no person's folder or too deep,
    a folder holds nothing or is named like a part of another layout, a file is no image by its
    name, only some names tell a camera, or options contradict each other or the folders, and for
    DukeMTMC.
    """
    root = opened_root(root)
    folders = _folders(root)
    parts = {folder.name: folder for folder in folders if folder.name in PARTS}
    if not folders:
        raise FileNotFoundError(f"{root} holds no folders, but should hold {HOLDS}: check the path")
    if parts and len(parts) < len(folders):
        other = next(folder.name for folder in folders if folder.name not in parts)
        raise ValueError(
            f"{root} holds {other} beside {next(iter(parts))}, but should hold {HOLDS}: move one"
        )
    if (QUERY in parts) != (GALLERY in parts):
        raise FileNotFoundError(
            f"{root} holds only one of {QUERY} and {GALLERY}, which need each other: add the other"
        )
    if parts and RANK in options:
        raise ValueError(f"{root} holds {', '.join(parts)} already: drop the option {RANK}")
    found = [
        crop for part, folder in (parts or {TRAIN: root}).items() for crop in _crops(folder, part)
    ]
    if RANK in options:
        found = _ranked(root, found)
    people = _numbers([crop.person for crop in found])
    cameras = _cameras(root, found, options)

    def part_of(part: str) -> Crops:
        rows = [row for row, crop in enumerate(found) if crop.part == part]
        columns = [found[row].path for row in rows], [people[row] for row in rows]
        return crops(name, *columns, [cameras[row] for row in rows])

    return Domain(name, part_of(TRAIN), part_of(QUERY), part_of(GALLERY))


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name. An image beside them is a mistake."""
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    inside.sort(key=lambda path: path.name)
    for path in inside:
        if path.is_file() and GRAMMAR.pattern.fullmatch(path.name):
            raise ValueError(
                f"{path} lies beside folders or in none, so that it is unknown whose or which "
                f"camera's it is; there should be {HOLDS}: move it"
            )
    return [path for path in inside if path.is_dir()]


def _crops(folder: Path, part: str) -> list[_Crop]:
    """Return the crops in the folders of people in a folder."""
    found = []
    people = _folders(folder)
    for person in people:
        places = _places(person)
        foreign = [name for name, _ in places if name.lower() in NO_PLACE]
        if person.name.lower() in NO_PERSON | NO_PLACE:
            foreign.append(person.name)
        if foreign:
            raise ValueError(
                f"{person} is, or holds, {foreign[0]}, which is a part of another layout and no "
                f"person: there should be {HOLDS}"
            )
        own = [
            _Crop(path, part, _composed(person.name), _composed(place))
            for place, where in places
            for path, _ in GRAMMAR.scan(where)
        ]
        if not own:
            raise ValueError(f"{person} holds no crops of that person: remove it")
        found += own
    if not people:
        raise ValueError(f"{folder} holds no folders of people: fill or remove it")
    return found


def _places(person: Path) -> list[tuple[str, Path]]:
    """Return the folders that hold a person's crops, with their names, or the person's own."""
    inside = [path for path in person.iterdir() if path.is_dir() and path.name[0] != "."]
    return [(path.name, path) for path in _folders(person)] if inside else [("", person)]


def _composed(name: str) -> str:
    """Return a name as it is written on most systems; some take letters and their accents apart."""
    return unicodedata.normalize("NFC", name)


def _ranked(root: Path, found: Sequence[_Crop]) -> list[_Crop]:
    """Return the crops with the first of each person as query, and the others as gallery."""
    ranked, met = [], set()
    for crop in found:
        ranked.append(crop._replace(part=GALLERY if crop.person in met else QUERY))
        met.add(crop.person)
    if len(met) == len(found):
        raise ValueError(f"{root} holds one crop of each person, so that there is nobody to find")
    return ranked


def _numbers(names: Sequence[str]) -> list[int]:
    """Return the number of each name, from 1 in sorted order."""
    number = {name: n for n, name in enumerate(sorted(set(names)), start=1)}
    return [number[name] for name in names]


def _cameras(root: Path, found: Sequence[_Crop], options: Options) -> list[int]:
    """Return the camera of each crop, or a camera of its own."""
    if CAMERAS in options and NO_CAMERAS in options:
        raise ValueError(f"the options {CAMERAS} and {NO_CAMERAS} contradict each other: drop one")
    if CAMERAS in options:
        for crop in found:
            if not crop.place:
                raise ValueError(
                    f"{crop.path} is in no camera's folder, which the option {CAMERAS} asks for: "
                    "move it, or drop the option"
                )
        return _numbers([crop.place for crop in found])
    told = [CAMERA_IN_NAME.search(crop.path.name) for crop in found]
    if not any(told) or NO_CAMERAS in options:
        return list(range(1, len(found) + 1))
    for crop, match in zip(found, told, strict=True):
        if match is None:
            raise ValueError(
                f"{crop.path} tells no camera, as cN in its name, and other crops in {root} do: "
                f"rename it, or read all crops without cameras by the option {NO_CAMERAS}"
            )
    return [int(match["camera"]) for match in told if match is not None]


PEOPLE = Layout(
    read_people,
    HOLDS,
    options={
        RANK: "learn from nobody: look for the first crop of each person among the others",
        CAMERAS: "the folders in a person's folder are cameras",
        NO_CAMERAS: "numbers in file names are no cameras: every crop is of a camera of its own",
    },
)
