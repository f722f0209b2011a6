"""The layout of CUHK02 (Li and Wang, CVPR 2013): five pairs of cameras, P1 to P5."""

import re
from pathlib import Path

from rayreid.batch import Crops, Domain
from rayreid.data.layouts.grammar import Grammar, Layout, Options, crops, kept, opened_root

PAIRS = (1, 2, 3, 4, 5)
TEST_PAIR = 5

GRAMMAR = Grammar(
    re.compile(r"(?P<person>\d{1,9})_\w+\.(?:png|jpg|jpeg|bmp)", re.ASCII | re.IGNORECASE),
    "PPP_*.png (person of the camera pair)",
)
HOLDS = "the folders P1 to P5, each with cam1 and cam2, or the folder Dataset with these"


def read_cuhk02(root: Path, name: str, _options: Options = frozenset()) -> Domain:
    """Return the domain in a folder with ``P1`` .. ``P5``, or with a ``Dataset`` of these.

    The split is torchreid's, the only one in use: P1 to P4 are learnt from; of P5, the crops of
    ``cam1`` are the query and those of ``cam2`` the gallery. Protocols that train on the whole
    set use the option ``all`` (1,816 people).

    Numbers of people begin anew in every pair: identities count the people from 1, pair by pair.
    Cameras are 1 to 10, two for each pair. Crops are absolute paths sorted by pair, camera and
    name. P1 shows the people of CUHK01.

    Raises FileNotFoundError when the root or a folder is missing; ValueError when the root is a
    file, a folder has no crops or a file name is outside the grammar, and for DukeMTMC.
    """
    root = opened_root(root)
    places = [root / "Dataset", root]
    within = next(
        (place for place in places if any(_folder(place, n).is_dir() for n in PAIRS)), None
    )
    if within is None:
        raise FileNotFoundError(
            f"{root} is not laid out like CUHK02, with {HOLDS}: give the folder that holds them"
        )
    found = _read(within, name)
    camera = found.cameras
    test = camera > 2 * (TEST_PAIR - 1)
    return Domain(
        name,
        kept(found, ~test),
        kept(found, test & (camera % 2 == 1)),
        kept(found, test & (camera % 2 == 0)),
    )


def _folder(within: Path, pair: int) -> Path:
    return within / f"P{pair}"


def _read(within: Path, domain: str) -> Crops:
    """Return all crops of all pairs."""
    images, people, cameras = [], [], []
    for pair in PAIRS:
        for side in (1, 2):
            folder = _folder(within, pair) / f"cam{side}"
            found = GRAMMAR.scan(folder)
            if not found:
                raise ValueError(f"{folder} holds no crops: unpack CUHK02 again")
            for path, told in found:
                images.append(path)
                people.append((pair, int(told["person"])))
                cameras.append(2 * (pair - 1) + side)
    number = {person: n for n, person in enumerate(sorted(set(people)), 1)}
    return crops(domain, images, [number[person] for person in people], cameras)


CUHK02 = Layout(
    read_cuhk02,
    HOLDS,
    counts={"all": "train 7264/1816"},
    shares_people_with=frozenset({"cuhk01"}),
)
