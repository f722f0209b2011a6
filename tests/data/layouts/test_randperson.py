from pathlib import Path

import numpy as np
import pytest

from rayreid.data.layouts import read_layout
from rayreid.data.layouts.randperson import FIRST_CAMERA, read_randperson

NAMES = [
    "000000_s00_c00_f000264.jpg",
    "000000_s00_c01_f001032.JPG",
    "000007_s01_c00_f000024.jpg",
    "000007_s04_c00_f000048.png",
    "007999_s10_c03_f123456.jpg",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "RandPerson"
    (root / "randperson_subset").mkdir(parents=True)
    for name in (*NAMES, "Thumbs.db", ".DS_Store"):
        (root / "randperson_subset" / name).touch()
    return root


def test_every_quirk_of_the_grammar(root: Path) -> None:
    domain = read_randperson(root, "randperson")
    # People count from 0 in the names, and 0 is nobody here.
    np.testing.assert_array_equal(domain.train.identities, [1, 1, 8, 8, 8000])
    np.testing.assert_array_equal(domain.train.cameras, [0, 1, 2, 8, 18])
    assert domain.train.times is not None
    np.testing.assert_allclose(domain.train.times, [11, 43, 1, 2, 5144])
    assert [path.name for path in domain.train.images] == NAMES
    assert all(path.is_absolute() and path.is_file() for path in domain.train.images)
    assert not len(domain.query)
    assert not len(domain.gallery)


def test_scenes_do_not_share_cameras(tmp_path: Path) -> None:
    assert FIRST_CAMERA == (0, 2, 4, 6, 8, 9, 10, 12, 13, 14, 15)
    for scene, first in enumerate((*FIRST_CAMERA[1:], 19)):
        for camera in range(first - FIRST_CAMERA[scene]):
            (tmp_path / f"000001_s{scene:02}_c{camera:02}_f000001.jpg").touch()
    np.testing.assert_array_equal(read_randperson(tmp_path, "x").train.cameras, np.arange(19))


def test_the_folder_of_crops_is_read_too(root: Path) -> None:
    inner = read_randperson(root / "randperson_subset", "x")
    assert inner.train.images == read_randperson(root, "x").train.images
    assert len(read_layout("randperson:all", root, "x").train) == 5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("000001_s11_c00_f000001.jpg", "names scene 11"),
        ("000001_s04_c01_f000001.jpg", "names camera 1 of scene 4"),
        ("000001_s00_c07_f000001.jpg", "names camera 7 of scene 0"),
        ("0001_c1s1_000001_00.jpg", "PPPPPP_sSS_cCC_fFFFFFF.jpg"),
        ("000001_s00_c00_f000001.gif", "PPPPPP_sSS_cCC_fFFFFFF.jpg"),
        ("camera0_1.tar.gz", "PPPPPP_sSS_cCC_fFFFFFF.jpg"),
    ],
)
def test_name_outside_the_grammar_is_named(root: Path, name: str, said: str) -> None:
    (root / "randperson_subset" / name).touch()
    with pytest.raises(ValueError, match=said) as caught:
        read_randperson(root, "x")
    assert name in str(caught.value)


def test_roots_that_are_none_are_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="RandPerson is the folder randperson_subset"):
        read_randperson(tmp_path / "empty", "x")
    with pytest.raises(FileNotFoundError, match="like RandPerson, with the folder randperson_sub"):
        read_randperson(tmp_path, "x")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_randperson(root / "nowhere", "x")
    with pytest.raises(ValueError, match="is a file"):
        read_randperson(root / "randperson_subset" / NAMES[0], "x")
    with pytest.raises(ValueError, match="consent"):
        read_randperson(root.rename(root.parent / "DukeMTMC"), "x")
