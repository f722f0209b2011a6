from pathlib import Path

import numpy as np
import pytest

from rayreid.data.layouts import parse_layout, read_layout
from rayreid.data.layouts.splits import ten_splits
from rayreid.data.layouts.viper import VIPER, read_viper
from tests.data.layouts.miniature import added, hidden

NAMES = [3 * n // 2 for n in range(632)]
"""Numbers in the names start at 0 and have gaps, as in the set."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a whole VIPeR of empty files: its splits name people by their order."""
    root = tmp_path_factory.mktemp("VIPeR")
    for camera, angle in (("cam_a", 0), ("cam_b", 90)):
        (root / camera).mkdir(parents=True)
        for n, identity in enumerate(NAMES):
            suffix = ".BMP" if n % 100 == 7 else ".bmp"
            (root / camera / f"{identity:03}_{angle + n % 2 * 45}{suffix}").touch()
        (root / camera / "Thumbs.db").touch()
        (root / camera / ".DS_Store").touch()
    return root


def test_a_split_of_all_people(root: Path) -> None:
    domain = read_viper(root, "viper")
    tested = sorted(ten_splits("viper")[0])
    assert VIPER.counts[""] == "train 632/316, query 316/316, gallery 316/316"
    assert (len(domain.train), len(domain.query), len(domain.gallery)) == (632, 316, 316)
    np.testing.assert_array_equal(domain.query.identities, tested)
    np.testing.assert_array_equal(domain.gallery.identities, tested)
    np.testing.assert_array_equal(domain.query.cameras, 1)
    np.testing.assert_array_equal(domain.gallery.cameras, 2)
    np.testing.assert_array_equal(domain.train.cameras, [1, 2] * 316)
    assert set(domain.train.identities.tolist()) == set(range(1, 633)) - set(tested)
    for crops in (domain.train, domain.query, domain.gallery):
        assert crops.domain == domain.name == "viper"
        for path, person, camera in zip(crops.images, crops.identities, crops.cameras, strict=True):
            assert path.is_absolute()
            assert path.is_file()
            assert path.parent.name == ("cam_a", "cam_b")[camera - 1]
            assert int(path.name[: path.name.index("_")]) == NAMES[person - 1]


def test_ten_splits_are_chosen_by_number(root: Path) -> None:
    for number in (1, 3, 10):
        domain = read_layout(f"viper:{number}", root, "x")
        assert set(domain.query.identities.tolist()) == ten_splits("viper")[number - 1]
    with pytest.raises(ValueError, match="option of the layout viper"):
        parse_layout("viper:11")
    with pytest.raises(ValueError, match="splits 2 and 3 are asked for"):
        read_layout("viper:3,2", root, "x")


def test_swapped_looks_the_other_way(root: Path) -> None:
    one, other = (read_layout(f"viper:{words}", root, "x") for words in ("4", "4,swapped"))
    assert one.query.images == other.gallery.images
    assert one.gallery.images == other.query.images
    assert one.train.images == other.train.images
    np.testing.assert_array_equal(other.query.cameras, 2)
    np.testing.assert_array_equal(other.gallery.cameras, 1)


def test_everybody_is_there_to_learn_from(root: Path) -> None:
    domain = read_layout("viper:all", root, "x")
    assert VIPER.counts["all"] == "train 1264/632"
    assert len(domain.train) == 1264
    assert set(domain.train.identities.tolist()) == set(range(1, 633))


@pytest.mark.parametrize("camera", ["cam_a", "cam_b"])
def test_missing_folder_is_named(root: Path, camera: str) -> None:
    with (
        hidden(root / camera),
        pytest.raises(FileNotFoundError, match="VIPeR, with the folders cam_a and cam_b"),
    ):
        read_viper(root, "x")


def test_missing_people_are_named(root: Path) -> None:
    seen = root / "cam_a" / "003_0.bmp", root / "cam_b" / "003_90.bmp"
    for missing in seen:
        with (
            hidden(missing),
            pytest.raises(ValueError, match="shows person 003 in one camera only"),
        ):
            read_viper(root, "x")
    with hidden(*seen), pytest.raises(ValueError, match="shows 631 people, not the 632"):
        read_viper(root, "x")


def test_a_second_crop_of_somebody_is_named(root: Path) -> None:
    said = r"3_180\.bmp and 003_90\.bmp show the same person"
    with added(root / "cam_b" / "3_180.bmp"), pytest.raises(ValueError, match=said):
        read_viper(root, "x")


@pytest.mark.parametrize("name", ["0001_c1s1_000001_00.bmp", "000.bmp", "000_45.gif", "a_45.bmp"])
def test_name_outside_the_grammar_is_named(root: Path, name: str) -> None:
    with (
        added(root / "cam_a" / name),
        pytest.raises(ValueError, match=r"III_AAA\.bmp") as caught,
    ):
        read_viper(root, "x")
    assert str(root / "cam_a" / name) in str(caught.value)


def test_roots_that_are_none_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_viper(root / "nowhere", "x")
    with pytest.raises(ValueError, match="is a file"):
        read_viper(root / "cam_a" / "Thumbs.db", "x")
    (tmp_path / "DukeMTMC").symlink_to(root)
    with pytest.raises(ValueError, match="consent"):
        read_viper(tmp_path / "DukeMTMC", "x")
