"""The layouts of the crops of CUHK-SYSU (Xiao et al., CVPR 2017), a set of whole frames."""

import re
from pathlib import Path

from rayreid.batch import Domain
from rayreid.data.layouts.grammar import NOBODY, Grammar, Layout, Options, crops, none, opened_root

_SUFFIX = r"\.(?:jpg|jpeg|png)"
GRAMMARS = {
    "cropped_images": Grammar(
        re.compile(
            r"p(?P<person>\d{1,9})_s(?P<scene>\d{1,9})_\d+" + _SUFFIX, re.ASCII | re.IGNORECASE
        ),
        "pPPPPP_sSSSSS_N.jpg (person, scene, number)",
    ),
    "cropped_image": Grammar(
        re.compile(
            r"p(?P<person>\d{1,9})_n\d+_s(?P<scene>\d{1,9})_hard\d" + _SUFFIX,
            re.ASCII | re.IGNORECASE,
        ),
        "pPPPPP_nNN_sSSSSS_hardH.png (person, number, scene, whether it is hard)",
    ),
    "bounding_box_train": Grammar(
        re.compile(
            r"(?P<person>\d{1,9})_c\d+(?:s\d+)?(?:_\w+)?" + _SUFFIX, re.ASCII | re.IGNORECASE
        ),
        "PPPP_cC_*.jpg (person, camera)",
    ),
}
"""The names in each of the folders that are in use: torchreid's and fast-reid's, MetaBIN's, and
that of a conversion to Market-1501's layout."""

HOLDS = "the crops in one of the folders " + ", ".join(GRAMMARS)
SCENES = "scenes"
NO_CAMERA = 0


def read_cuhk_sysu(root: Path, name: str, options: Options = frozenset()) -> Domain:
    """Return the domain in a folder with one of the folders of `GRAMMARS`: nobody to rank.

    The set is for person search, in frames of many places and of films. Re-identification learns
    from its crops alone, and ranks nobody: query and gallery are empty.

    There are no cameras. Every crop has camera 0, as in torchreid and fast-reid; also where names
    follow Market-1501, whose cameras 0 and 1 are made up. The option ``scenes`` takes the frame
    for the camera, as MetaBIN does, where names tell it. Where numbers start at 0, people are
    numbered one higher than in the names, because 0 is nobody's number here.

    Raises FileNotFoundError when the root is missing, or all of the folders; ValueError when the
    root is a file, or holds several of them, or other parts of Market-1501's layout; when there
    are no crops, a file name is outside the grammar, or scenes are asked for where names do not
    tell them; and for DukeMTMC.
    """
    root = opened_root(root)
    there = [folder for folder in GRAMMARS if (root / folder).is_dir()]
    if not there:
        raise FileNotFoundError(
            f"{root} is not laid out like the crops of CUHK-SYSU, with {HOLDS}: give the folder "
            "that holds them"
        )
    if len(there) > 1:
        raise ValueError(f"{root} holds {' and '.join(there)}, the crops twice: keep one of them")
    for folder in ("query", "bounding_box_test"):
        if (root / folder).exists():
            raise ValueError(
                f"{root} has a folder {folder}, which CUHK-SYSU has not: read it as "
                f"market1501={root}, if that is its layout"
            )
    grammar = GRAMMARS[there[0]]
    if SCENES in options and "scene" not in grammar.pattern.groupindex:
        raise ValueError(
            f"the names in {root / there[0]}, {grammar.words}, do not tell the scene: read it "
            f"without the option {SCENES}"
        )
    found = grammar.scan(root / there[0])
    if not found:
        raise ValueError(f"{root / there[0]} holds no crops: unpack the set again")
    people = [int(told["person"]) for _, told in found]
    start = 1 if NOBODY in people else 0
    train = crops(
        name,
        [path for path, _ in found],
        [start + person for person in people],
        [int(told["scene"]) if SCENES in options else NO_CAMERA for _, told in found],
    )
    return Domain(name, train, none(name), none(name))


CUHK_SYSU = Layout(
    read_cuhk_sysu,
    HOLDS,
    options={SCENES: "take the scene for the camera, where names tell it"},
    counts=dict.fromkeys(("", SCENES), "train 34574/11934"),
    train_only=True,
)
