from pathlib import Path

import numpy as np
import pytest

from rayreid.data.layouts import parse_layout, read_layout
from rayreid.data.layouts.prid2011 import PRID2011, read_prid2011
from rayreid.data.layouts.splits import ten_splits
from tests.data.layouts.miniature import added, hidden


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a whole PRID2011 of empty files."""
    root = tmp_path_factory.mktemp("prid_2011")
    for camera, people in (("cam_a", 385), ("cam_b", 749)):
        (root / "single_shot" / camera).mkdir(parents=True)
        for person in range(1, people + 1):
            suffix = ".PNG" if person == 5 else ".png"
            (root / "single_shot" / camera / f"person_{person:04}{suffix}").touch()
        (root / "single_shot" / camera / "Thumbs.db").touch()
    return root


def test_a_split_of_all_people(root: Path) -> None:
    domain = read_prid2011(root, "prid2011")
    tested = sorted(ten_splits("prid2011")[0])
    assert PRID2011.counts[""] == "train 200/100, query 100/100, gallery 649/649"
    assert (len(domain.train), len(domain.query), len(domain.gallery)) == (200, 100, 649)
    np.testing.assert_array_equal(domain.query.identities, tested)
    np.testing.assert_array_equal(domain.gallery.identities, [*tested, *range(201, 750)])
    np.testing.assert_array_equal(domain.query.cameras, 1)
    np.testing.assert_array_equal(domain.gallery.cameras, 2)
    np.testing.assert_array_equal(domain.train.cameras, [1, 2] * 100)
    assert set(domain.train.identities.tolist()) == set(range(1, 201)) - set(tested)
    for crops in (domain.train, domain.query, domain.gallery):
        for path, person, camera in zip(crops.images, crops.identities, crops.cameras, strict=True):
            assert path.is_absolute()
            assert path.is_file()
            assert path.parent.name == ("cam_a", "cam_b")[camera - 1]
            assert int(path.name[7:11]) == person


def test_swapped_looks_among_the_people_of_camera_a(root: Path) -> None:
    one, other = (read_layout(f"prid2011:{words}", root, "x") for words in ("2", "2,swapped"))
    assert PRID2011.counts["swapped"] == "train 200/100, query 100/100, gallery 285/285"
    assert other.query.images == one.gallery.images[:100]
    assert other.gallery.images[:100] == one.query.images
    assert other.train.images == one.train.images
    np.testing.assert_array_equal(other.query.cameras, 2)
    np.testing.assert_array_equal(other.gallery.cameras, 1)
    # Numbers after 200 name other people in each camera: here each person has one of their own.
    assert other.gallery.images[100].name == "person_0201.png"
    np.testing.assert_array_equal(other.gallery.identities[100:], np.arange(750, 935))


def test_ten_splits_are_chosen_by_number(root: Path) -> None:
    for number in (1, 10):
        domain = read_layout(f"prid2011:{number}", root, "x")
        assert set(domain.query.identities.tolist()) == ten_splits("prid2011")[number - 1]
    with pytest.raises(ValueError, match="option of the layout prid2011"):
        parse_layout("prid2011:11")
    with pytest.raises(ValueError, match="splits 1 and 2 are asked for"):
        read_layout("prid2011:1,2", root, "x")


def test_everybody_of_camera_b_is_there_to_learn_from(root: Path) -> None:
    domain = read_layout("prid2011:all", root, "x")
    assert PRID2011.counts["all"] == "train 949/749"
    assert len(domain.train) == 949
    assert len(set(domain.train.identities.tolist())) == 749


@pytest.mark.parametrize("camera", ["cam_a", "cam_b"])
def test_missing_folder_is_named(root: Path, camera: str) -> None:
    said = "PRID2011, with the folder single_shot"
    with hidden(root / "single_shot" / camera), pytest.raises(FileNotFoundError, match=said):
        read_prid2011(root, "x")
    with pytest.raises(FileNotFoundError, match=said):
        read_prid2011(root / "single_shot", "x")


@pytest.mark.parametrize("camera", ["cam_a", "cam_b"])
def test_a_missing_person_of_the_shared_is_named(root: Path, camera: str) -> None:
    with (
        hidden(root / "single_shot" / camera / "person_0200.png"),
        pytest.raises(ValueError, match=f"{camera} lacks person 0200"),
    ):
        read_prid2011(root, "x")


def test_a_second_crop_of_somebody_is_named(root: Path) -> None:
    with (
        added(root / "single_shot" / "cam_b" / "person_0003.jpg"),
        pytest.raises(ValueError, match="show the same person"),
    ):
        read_prid2011(root, "x")


@pytest.mark.parametrize("name", ["0001.png", "person_0001.gif", "person_0001_1.png"])
def test_name_outside_the_grammar_is_named(root: Path, name: str) -> None:
    with (
        added(root / "single_shot" / "cam_a" / name),
        pytest.raises(ValueError, match=r"person_PPPP\.png"),
    ):
        read_prid2011(root, "x")


def test_roots_that_are_none_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_prid2011(root / "nowhere", "x")
    with pytest.raises(ValueError, match="is a file"):
        read_prid2011(root / "single_shot" / "cam_a" / "Thumbs.db", "x")
    (tmp_path / "DukeMTMC").symlink_to(root)
    with pytest.raises(ValueError, match="consent"):
        read_prid2011(tmp_path / "DukeMTMC", "x")
