import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayreid.batch import Crops, Domain
from rayreid.data.layouts import read_layout
from rayreid.data.layouts.people import CAMERA_IN_NAME, NO_PERSON, NO_PLACE, read_people


def make(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def names(part: Crops) -> list[str]:
    return [path.name for path in part.images]


def sizes(domain: Domain) -> tuple[int, int, int]:
    return len(domain.train), len(domain.query), len(domain.gallery)


def test_everybody_is_learnt_from_and_named_in_any_alphabet(tmp_path: Path) -> None:
    root = make(
        tmp_path / "mine",
        "Zoë/a.jpg",
        "Zoë/b.PNG",
        "محمد/1.webp",
        "王/x.bmp",
        "王/Thumbs.db",
        "王/.DS_Store",
        "0007 (guest)/left/a.jpeg",
        "0007 (guest)/right/a.jpeg",
        ".git/config",
        "notes.txt",
    )
    domain = read_people(root, "mine")
    assert sizes(domain) == (6, 0, 0)
    assert names(domain.train) == ["a.jpeg", "a.jpeg", "a.jpg", "b.PNG", "1.webp", "x.bmp"]
    np.testing.assert_array_equal(domain.train.identities, [1, 1, 2, 2, 3, 4])
    assert all(path.is_absolute() and path.is_file() for path in domain.train.images)
    # Nobody knows the cameras: no two crops are of the same one.
    assert len(set(domain.train.cameras.tolist())) == 6


def test_parts_are_read_from_folders_above(tmp_path: Path) -> None:
    root = make(
        tmp_path, "train/b/1.jpg", "train/c/1.jpg", "query/a/1.jpg", "gallery/a/2.jpg",
        "gallery/d/1.jpg", "readme.md",
    )  # fmt: skip
    domain = read_people(root, "mine")
    np.testing.assert_array_equal(domain.train.identities, [2, 3])
    np.testing.assert_array_equal(domain.query.identities, [1])
    np.testing.assert_array_equal(domain.gallery.identities, [1, 4])
    cameras = np.concatenate([domain.train.cameras, domain.query.cameras, domain.gallery.cameras])
    assert len(set(cameras.tolist())) == 5


def test_a_part_may_be_missing(tmp_path: Path) -> None:
    make(tmp_path / "one", "train/a/1.jpg")
    assert sizes(read_people(tmp_path / "one", "x")) == (1, 0, 0)
    make(tmp_path / "two", "query/a/1.jpg", "gallery/a/2.jpg")
    assert sizes(read_people(tmp_path / "two", "x")) == (0, 1, 1)
    for part in ("query", "gallery"):
        root = make(tmp_path / part, f"{part}/a/1.jpg", "train/b/1.jpg")
        with pytest.raises(FileNotFoundError, match="only one of query and gallery"):
            read_people(root, "x")


def test_the_first_crop_of_each_looks_for_the_others(tmp_path: Path) -> None:
    root = make(tmp_path, "a/1.jpg", "a/2.jpg", "a/3.jpg", "b/9.jpg", "c/5.jpg", "c/4.jpg")
    domain = read_layout("people:rank", root, "x")
    assert sizes(domain) == (0, 3, 3)
    assert names(domain.query) == ["1.jpg", "9.jpg", "4.jpg"]
    assert names(domain.gallery) == ["2.jpg", "3.jpg", "5.jpg"]
    np.testing.assert_array_equal(domain.query.identities, [1, 2, 3])
    np.testing.assert_array_equal(domain.gallery.identities, [1, 1, 3])
    every = read_layout("people:rank,all", root, "x")
    assert sizes(every) == (6, 0, 0)


def test_nothing_to_rank_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one crop of each person"):
        read_layout("people:rank", make(tmp_path / "one", "a/1.jpg", "b/1.jpg"), "x")
    root = make(tmp_path / "two", "query/a/1.jpg", "gallery/a/2.jpg")
    with pytest.raises(ValueError, match="drop the option rank"):
        read_layout("people:rank", root, "x")


@pytest.mark.parametrize(
    ("name", "camera"),
    [
        ("0001_c2s1_000451_03.jpg", 2),
        ("c3-17.png", 3),
        ("walk.CAM12.bmp", 12),
        ("x_Camera007.jpg", 7),
        ("a c4 b.jpg", 4),
        ("c1_c2.jpg", 1),
        ("abc3.jpg", None),
        ("c3b.jpg", None),
        ("3.jpg", None),
        ("c.jpg", None),
        ("éc3.jpg", None),
        ("2c3.jpg", None),
    ],
)
def test_names_tell_cameras(name: str, camera: int | None) -> None:
    match = CAMERA_IN_NAME.search(name)
    assert (match and int(match["camera"])) == camera


def test_cameras_are_read_from_all_names_or_none(tmp_path: Path) -> None:
    root = make(tmp_path, "a/c2_1.jpg", "a/c5_1.jpg", "b/c2_7.jpg")
    assert read_people(root, "x").train.cameras.tolist() == [2, 5, 2]
    assert read_layout("people:nocameras", root, "x").train.cameras.tolist() == [1, 2, 3]
    make(root, "b/other.jpg")
    with pytest.raises(ValueError, match=r"b/other\.jpg tells no camera.*nocameras"):
        read_people(root, "x")
    assert read_layout("people:nocameras", root, "x").train.cameras.tolist() == [1, 2, 3, 4]


def test_folders_are_cameras_when_asked(tmp_path: Path) -> None:
    root = make(
        tmp_path, "query/a/yard/c9.jpg", "gallery/a/door/1.jpg", "gallery/b/yard/1.jpg",
        "train/d/hall/1.jpg",
    )  # fmt: skip
    domain = read_layout("people:cameras", root, "x")
    assert domain.gallery.cameras.tolist() == [1, 3]
    assert domain.query.cameras.tolist() == [3]
    assert domain.train.cameras.tolist() == [2]
    make(root, "train/e/1.jpg")
    with pytest.raises(ValueError, match=r"train/e/1\.jpg is in no camera's folder"):
        read_layout("people:cameras", root, "x")
    with pytest.raises(ValueError, match="contradict each other"):
        read_layout("people:cameras,nocameras", root, "x")


def test_a_name_is_the_same_however_its_accents_are_written(tmp_path: Path) -> None:
    one, other = (unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD"))
    assert one != other
    root = make(tmp_path, f"query/{one}/1.jpg", f"gallery/{other}/2.jpg")
    domain = read_people(root, "x")
    assert domain.query.identities == domain.gallery.identities


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["a/1.jpg", "2.jpg"], r"2\.jpg lies beside folders"),
        (["1.jpg"], r"1\.jpg lies beside folders"),
        (["a/1.jpg", "a/left/2.jpg"], r"a/1\.jpg lies beside folders"),
        (["train/1.jpg", "train/a/1.jpg"], r"train/1\.jpg lies beside folders"),
        (["a/left/deep/1.jpg"], r"left/deep is not named like a crop"),
        (["a/1.jpg", "b/notes.txt"], r"b/notes\.txt is not named like a crop"),
        (["a/1.jpg", "b/Thumbs.db"], r"b holds no crops of that person"),
        (["a/1.jpg", "b/left/Thumbs.db"], r"b holds no crops of that person"),
        (["train/a/1.jpg", "b/1.jpg"], r"holds b beside train, but should hold a folder of crops"),
        (["query/0001_c1s1_1_0.jpg", "bounding_box_test/0001_c1s1_1_0.jpg"],
         r"holds bounding_box_test beside query"),
        (["cam_a/000_45.bmp", "cam_b/000_90.bmp"], r"cam_a is, or holds, cam_a"),
        (["1/query/0001_c1s1_01.jpg"], r"1 is, or holds, query, which is a part of another"),
        (["unreal_v1.1/images/3_c001_7.jpg"], r"unreal_v1\.1 is, or holds, images"),
        (["Persons/0001001.jpg"], r"Persons is, or holds, Persons"),
        (["train/.hidden", "query/a/1.jpg", "gallery/a/2.jpg"], r"train holds no folders of"),
    ],
)  # fmt: skip
def test_what_is_out_of_place_is_named(tmp_path: Path, files: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_people(make(tmp_path, *files), "x")


def test_roots_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="should hold a folder of crops for each person"):
        read_people(tmp_path / "empty", "x")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_people(tmp_path / "nowhere", "x")
    root = make(tmp_path / "my DukeMTMC", "a/1.jpg")
    with pytest.raises(ValueError, match="is a file"):
        read_people(root / "a" / "1.jpg", "x")
    with pytest.raises(ValueError, match="consent"):
        read_people(root, "x")


LETTERS = st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/\0")
SOME_NAMES = st.text(LETTERS, min_size=1, max_size=8).filter(
    lambda name: name[0] != "." and name.lower() not in NO_PERSON | NO_PLACE
)


@given(people=st.dictionaries(SOME_NAMES, st.integers(1, 3), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_all_crops_are_read_once_whoever_is_on_them(
    people: dict[str, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("people")
    make(root, *(f"{person}/{n}.jpg" for person, count in people.items() for n in range(count)))
    train = read_people(root, "x").train
    assert sorted(train.images) == sorted(root.glob("*/*.jpg"))
    composed = {unicodedata.normalize("NFC", person) for person in people}
    assert set(train.identities.tolist()) == set(range(1, len(composed) + 1))
    for path, person in zip(train.images, train.identities, strict=True):
        same = unicodedata.normalize("NFC", path.parent.name)
        assert sorted(composed)[person - 1] == same
