from pathlib import Path

import numpy as np
import pytest

from rayreid.data.layouts import parse_layout, read_layout
from rayreid.data.layouts.personx import read_personx

PARTS = {"bounding_box_train": (1, 2), "query": (7,), "bounding_box_test": (7, 9)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return backgrounds 1, 4 and 6, as many as a user may have unpacked."""
    root = tmp_path / "PersonX_v1"
    for background in (1, 4, 6):
        for part, people in PARTS.items():
            folder = root / str(background) / part
            folder.mkdir(parents=True)
            for person in people:
                for view in (1, 36):
                    suffix = ".JPG" if view == 36 else ".jpg"
                    (folder / f"{person:04}_c{background}s1_{view:02}{suffix}").touch()
            (folder / "Thumbs.db").touch()
    (root / "readme.txt").touch()
    return root


def test_backgrounds_are_cameras(root: Path) -> None:
    domain = read_personx(root, "personx")
    np.testing.assert_array_equal(domain.train.identities, [1, 1, 2, 2] * 3)
    np.testing.assert_array_equal(domain.train.cameras, [1] * 4 + [4] * 4 + [6] * 4)
    np.testing.assert_array_equal(domain.query.identities, [7] * 6)
    np.testing.assert_array_equal(domain.query.cameras, [1, 1, 4, 4, 6, 6])
    np.testing.assert_array_equal(domain.gallery.identities, [7, 7, 9, 9] * 3)
    for crops in (domain.train, domain.query, domain.gallery):
        for path, camera in zip(crops.images, crops.cameras, strict=True):
            assert path.is_absolute()
            assert path.is_file()
            assert path.parent.parent.name == str(camera)


def test_the_folder_is_the_camera_whatever_the_name_says(root: Path) -> None:
    (root / "4" / "query" / "0007_c2s1_05.jpg").touch()
    assert read_personx(root, "x").query.cameras.tolist() == [1, 1, 4, 4, 4, 6, 6]


def test_backgrounds_are_chosen_by_options(root: Path) -> None:
    assert set(read_layout("personx:background4", root, "x").train.cameras.tolist()) == {4}
    two = read_layout("personx:background6,background1", root, "x")
    np.testing.assert_array_equal(two.query.cameras, [1, 1, 6, 6])
    every = read_layout("personx:all,background4,background6", root, "x")
    assert set(every.train.identities.tolist()) == {1, 2, 7, 9}
    with pytest.raises(FileNotFoundError, match="no background 5, which is asked for"):
        read_layout("personx:background4,background5", root, "x")
    with pytest.raises(ValueError, match="did you mean 'background6'"):
        parse_layout("personx:background7")


@pytest.mark.parametrize("part", PARTS)
def test_missing_folders_and_crops_are_named(root: Path, part: str) -> None:
    folder = root / "4" / part
    for path in folder.glob("0*"):
        path.unlink()
    with pytest.raises(ValueError, match="holds no crops") as caught:
        read_personx(root, "x")
    assert str(folder) in str(caught.value)
    folder.rename(root / "other")
    with pytest.raises(FileNotFoundError) as missing:
        read_personx(root, "x")
    assert str(folder) in str(missing.value)


@pytest.mark.parametrize(
    "name", ["0001_c1s1_000001_00.jpg", "0001_c1_01.jpg", "0001_c1s1_01.gif", "-1_c1s1_01.jpg"]
)
def test_name_outside_the_grammar_is_named(root: Path, name: str) -> None:
    (root / "6" / "query" / name).touch()
    with pytest.raises(ValueError, match=r"PPPP_cCsS_VV\.jpg") as caught:
        read_personx(root, "x")
    assert name in str(caught.value)


def test_roots_that_are_none_are_named(root: Path) -> None:
    for other in (root.parent, root / "1"):
        with pytest.raises(FileNotFoundError, match="PersonX, with the folders 1 to 6"):
            read_personx(other, "x")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_personx(root / "nowhere", "x")
    with pytest.raises(ValueError, match="is a file"):
        read_personx(root / "readme.txt", "x")
    with pytest.raises(ValueError, match="consent"):
        read_personx(root.rename(root.parent / "DukeMTMC"), "x")
