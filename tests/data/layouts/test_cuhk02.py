from pathlib import Path

import numpy as np
import pytest

from rayreid.data.layouts import read_layout
from rayreid.data.layouts.cuhk02 import CUHK02, read_cuhk02

# Numbers of people begin anew in every pair, and have gaps.
PEOPLE = {1: (1, 2), 2: (1,), 3: (1, 7), 4: (3,), 5: (1, 2, 9)}


def make(root: Path, within: str = ".") -> Path:
    for pair, people in PEOPLE.items():
        for side in (1, 2):
            folder = root / within / f"P{pair}" / f"cam{side}"
            folder.mkdir(parents=True)
            for person in people:
                (folder / f"{person:03}_{side}.png").write_bytes(b"")
                (folder / f"{person:03}_{side}b.PNG").write_bytes(b"")
            (folder / "Thumbs.db").write_bytes(b"")
    return root


@pytest.mark.parametrize("within", [".", "Dataset"])
def test_four_pairs_teach_and_one_is_ranked(tmp_path: Path, within: str) -> None:
    root = make(tmp_path / "cuhk02", within)
    domain = read_cuhk02(root, "cuhk02")
    # Of the same number in another pair, it is somebody else.
    np.testing.assert_array_equal(np.unique(domain.train.identities), [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(np.unique(domain.train.cameras), range(1, 9))
    for crops, camera in ((domain.query, 9), (domain.gallery, 10)):
        np.testing.assert_array_equal(crops.identities, [7, 7, 8, 8, 9, 9])
        np.testing.assert_array_equal(crops.cameras, [camera] * 6)
    for crops in (domain.train, domain.query, domain.gallery):
        assert all(path.is_absolute() and path.is_file() for path in crops.images)
        assert crops.domain == "cuhk02"
        for path, camera in zip(crops.images, crops.cameras, strict=True):
            pair, side = divmod(int(camera) - 1, 2)
            assert path.parts[-3:-1] == (f"P{pair + 1}", f"cam{side + 1}")
    names = dict(zip(domain.train.images, domain.train.identities, strict=True))
    assert names[root.absolute() / within / "P3" / "cam1" / "007_1b.PNG"] == 5


def test_all_is_everybody(tmp_path: Path) -> None:
    domain = read_layout("cuhk02:all", make(tmp_path / "cuhk02"), "x")
    np.testing.assert_array_equal(np.unique(domain.train.identities), range(1, 10))
    assert len(domain.train) == 9 * 4
    assert not len(domain.query)


def test_people_are_shared_with_cuhk01() -> None:
    assert CUHK02.shares_people_with == {"cuhk01"}
    assert CUHK02.counts["all"] == f"train 7264/{971 + 306 + 107 + 193 + 239}"


@pytest.mark.parametrize("pair", [1, 5])
def test_missing_folder_is_named(tmp_path: Path, pair: int) -> None:
    root = make(tmp_path / "cuhk02")
    (root / f"P{pair}" / "cam2").rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=str(root / f"P{pair}" / "cam2")):
        read_cuhk02(root, "x")


def test_folder_without_crops_is_named(tmp_path: Path) -> None:
    root = make(tmp_path / "cuhk02")
    for path in (root / "P2" / "cam1").glob("*_*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"cam1 holds no crops"):
        read_cuhk02(root, "x")


@pytest.mark.parametrize("name", ["001.png", "a_1.png", "001_1.gif", "0001_c1s1_1_0.jpg.bak"])
def test_name_outside_the_grammar_is_named(tmp_path: Path, name: str) -> None:
    root = make(tmp_path / "cuhk02")
    (root / "P1" / "cam1" / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"PPP_\*.png"):
        read_cuhk02(root, "x")


def test_other_roots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_cuhk02(tmp_path / "nowhere", "x")
    (tmp_path / "cuhk02.zip").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file"):
        read_cuhk02(tmp_path / "cuhk02.zip", "x")
    (tmp_path / "campus").mkdir()
    with pytest.raises(FileNotFoundError, match="the folders P1 to P5"):
        read_cuhk02(tmp_path, "x")
    with pytest.raises(ValueError, match="consent"):
        read_cuhk02(make(tmp_path / "DukeMTMC"), "x")
