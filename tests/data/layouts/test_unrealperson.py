from pathlib import Path

import numpy as np
import pytest

from rayreid.data.layouts import read_layout
from rayreid.data.layouts.unrealperson import read_unrealperson

NAMES = {
    "unreal_v1.1": ["333_c001_78.jpg", "5_c001_1.JPG"],
    "unreal_v1.2": ["333_c001_78.jpg", "333_c002_79.jpg"],
    "unreal_v3.1": ["333_c001_78.jpg"],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "UnrealPerson"
    for folder, names in NAMES.items():
        (root / folder / "images").mkdir(parents=True)
        for name in (*names, "Thumbs.db"):
            (root / folder / "images" / name).touch()
    (root / "unreal_v4.1.tar").touch()
    (root / "Download.md").touch()
    return root


def test_people_are_of_a_version_and_cameras_of_an_environment(root: Path) -> None:
    domain = read_unrealperson(root, "unrealperson")
    found = {
        (path.parent.parent.name, path.name): (int(person), int(camera))
        for path, person, camera in zip(
            domain.train.images, domain.train.identities, domain.train.cameras, strict=True
        )
    }
    # People: (1, 5), (1, 333), (2, 333); cameras: (1, 1), (1, 2), (3, 1).
    assert found == {
        ("unreal_v1.1", "333_c001_78.jpg"): (2, 1),
        ("unreal_v1.1", "5_c001_1.JPG"): (1, 1),
        ("unreal_v1.2", "333_c001_78.jpg"): (3, 1),
        ("unreal_v1.2", "333_c002_79.jpg"): (3, 2),
        ("unreal_v3.1", "333_c001_78.jpg"): (2, 3),
    }
    assert all(path.is_absolute() and path.is_file() for path in domain.train.images)
    assert not len(domain.query)
    assert not len(domain.gallery)
    assert len(read_layout("unrealperson:all", root, "x").train) == 5


def test_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    for folder in ("unreal_v2.1", "unreal_v10.1"):
        (tmp_path / folder / "images").mkdir(parents=True)
        for name in ("9_c010_1.jpg", "10_c009_1.jpg"):
            (tmp_path / folder / "images" / name).touch()
    train = read_unrealperson(tmp_path, "x").train
    # Folders and files are in the order of their names: 10 before 2, and before 9.
    np.testing.assert_array_equal(train.identities, [2, 1, 2, 1])
    np.testing.assert_array_equal(train.cameras, [3, 4, 1, 2])


def test_missing_images_are_named(root: Path) -> None:
    for path in (root / "unreal_v3.1" / "images").glob("3*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"unreal_v3\.1/images holds no crops"):
        read_unrealperson(root, "x")
    (root / "unreal_v3.1" / "images").rename(root / "other")
    with pytest.raises(FileNotFoundError, match=r"unreal_v3\.1/images"):
        read_unrealperson(root, "x")


@pytest.mark.parametrize("name", ["333_001_78.jpg", "0001_c1s1_000001_00.jpg", "333_c001_78.gif"])
def test_name_outside_the_grammar_is_named(root: Path, name: str) -> None:
    (root / "unreal_v1.1" / "images" / name).touch()
    with pytest.raises(ValueError, match=r"P_cCCC_F\.jpg") as caught:
        read_unrealperson(root, "x")
    assert name in str(caught.value)


def test_roots_that_are_none_are_named(root: Path) -> None:
    for other in (root.parent, root / "unreal_v1.1"):
        with pytest.raises(FileNotFoundError, match=r"UnrealPerson, with folders unreal_vX\.Y"):
            read_unrealperson(other, "x")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_unrealperson(root / "nowhere", "x")
    with pytest.raises(ValueError, match="is a file"):
        read_unrealperson(root / "Download.md", "x")
    with pytest.raises(ValueError, match="consent"):
        read_unrealperson(root.rename(root.parent / "DukeMTMC"), "x")
