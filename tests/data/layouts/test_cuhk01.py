import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from rayreid.data.layouts import parse_layout, read_layout
from rayreid.data.layouts.cuhk01 import CUHK01, FOLDER, drawn_splits, read_cuhk01


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a whole CUHK01 of empty files: its splits name people by number."""
    root = tmp_path_factory.mktemp("cuhk01")
    (root / FOLDER).mkdir()
    for person in range(1, 972):
        for image in (1, 2, 3, 4):
            suffix = ".PNG" if person == 5 else ".png"
            (root / FOLDER / f"{person:04}{image:03}{suffix}").touch()
    (root / FOLDER / "Thumbs.db").touch()
    return root


def test_a_split_of_all_people(root: Path) -> None:
    domain = read_cuhk01(root, "cuhk01")
    test = drawn_splits()[0]
    assert (len(domain.train), len(domain.query), len(domain.gallery)) == (1940, 972, 972)
    assert CUHK01.counts[""] == "train 1940/485, query 972/486, gallery 972/486"
    np.testing.assert_array_equal(domain.query.identities, np.repeat(test, 2))
    np.testing.assert_array_equal(domain.gallery.identities, np.repeat(test, 2))
    assert not set(domain.train.identities.tolist()) & set(test)
    assert set(domain.query.cameras.tolist()) == {1}
    assert set(domain.gallery.cameras.tolist()) == {2}
    np.testing.assert_array_equal(domain.train.cameras, [1, 1, 2, 2] * 485)
    for crops in (domain.train, domain.query, domain.gallery):
        assert all(path.is_absolute() and path.is_file() for path in crops.images)
        assert crops.domain == domain.name == "cuhk01"
        for path, person, camera in zip(crops.images, crops.identities, crops.cameras, strict=True):
            assert int(path.name[:4]) == person
            assert path.name[6] in ("12" if camera == 1 else "34")


def test_swapped_looks_the_other_way(root: Path) -> None:
    one, other = (read_layout(f"cuhk01:{words}", root, "x") for words in ("4", "4,swapped"))
    assert one.query.images == other.gallery.images
    assert one.gallery.images == other.query.images
    assert one.train.images == other.train.images
    assert set(other.query.cameras.tolist()) == {2}


def test_ten_splits_are_chosen_by_number(root: Path) -> None:
    splits = drawn_splits()
    for number in (1, 2, 10):
        domain = read_layout(f"cuhk01:{number}", root, "x")
        assert sorted(set(domain.query.identities.tolist())) == splits[number - 1]
    with pytest.raises(ValueError, match="option of the layout cuhk01"):
        parse_layout("cuhk01:11")
    with pytest.raises(ValueError, match="choose one"):
        read_layout("cuhk01:1,2", root, "x")


def test_the_published_splits_are_those_drawn() -> None:
    file = resources.files("rayreid.data.layouts").joinpath("splits", "cuhk01.json")
    published = json.loads(file.read_text())
    assert published == {"version": 1, "seed": 1501, "test": drawn_splits()}
    for people in published["test"]:
        assert len(set(people)) == len(people) == 486
        assert people == sorted(people)
        assert 1 <= people[0] <= people[-1] <= 971
    assert len({tuple(people) for people in published["test"]}) == 10


def test_all_is_everybody(root: Path) -> None:
    domain = read_layout("cuhk01:all", root, "x")
    assert CUHK01.counts["all"] == "train 3884/971"
    assert (len(domain.train), len(np.unique(domain.train.identities))) == (3884, 971)
    assert not len(domain.query)


def test_people_are_shared_with_cuhk02() -> None:
    assert CUHK01.shares_people_with == {"cuhk02"}


def test_a_missing_crop_is_named(root: Path) -> None:
    crop = root / FOLDER / "0971004.png"
    crop.rename(root / "away")
    try:
        with pytest.raises(FileNotFoundError, match=r"lacks 1 crops of CUHK01, 0971004 for one"):
            read_cuhk01(root, "x")
    finally:
        (root / "away").rename(crop)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("0972001.png", "crops of person 972"),
        ("0000001.png", "crops of person 0"),
        ("0001005.png", "PPPPIII.png"),
        ("001_1.png", "PPPPIII.png"),
        ("0001001.gif", "PPPPIII.png"),
    ],
)
def test_others_are_refused(root: Path, name: str, said: str) -> None:
    (root / FOLDER / name).touch()
    try:
        with pytest.raises(ValueError, match=said):
            read_cuhk01(root, "x")
    finally:
        (root / FOLDER / name).unlink()


def test_other_roots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_cuhk01(tmp_path / "nowhere", "x")
    (tmp_path / "cuhk01.zip").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file"):
        read_cuhk01(tmp_path / "cuhk01.zip", "x")
    (tmp_path / "P1").mkdir()
    with pytest.raises(FileNotFoundError, match="the folder campus"):
        read_cuhk01(tmp_path, "x")
    (tmp_path / "DukeMTMC" / FOLDER).mkdir(parents=True)
    with pytest.raises(ValueError, match="consent"):
        read_cuhk01(tmp_path / "DukeMTMC", "x")
