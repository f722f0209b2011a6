from pathlib import Path

import numpy as np
import pytest

from rayreid.data.layouts import read_layout
from rayreid.data.layouts.cuhk_sysu import CUHK_SYSU, GRAMMARS, read_cuhk_sysu

NAMES = {
    "cropped_images": ["p00001_s00301_1.jpg", "p00001_s16929_2.JPG", "p11422_s16929_1.jpg"],
    "cropped_image": [
        "p00001_n01_s00301_hard0.png",
        "p00001_n02_s16929_hard1.png",
        "p11422_n01_s16929_hard0.PNG",
    ],
    "bounding_box_train": ["00001_c0_0.jpg", "00001_c1s1_000301_01.jpg", "11422_c1_1.JPG"],
}


def make(root: Path, folder: str, names: list[str] | None = None) -> Path:
    (root / folder).mkdir(parents=True)
    for name in [*(NAMES[folder] if names is None else names), "Thumbs.db", ".DS_Store"]:
        (root / folder / name).write_bytes(b"")
    return root


@pytest.mark.parametrize("folder", NAMES)
def test_crops_are_learnt_from_without_cameras(tmp_path: Path, folder: str) -> None:
    root = make(tmp_path / "sysu", folder)
    domain = read_cuhk_sysu(root, "sysu")
    assert domain.train.images == [root / folder / name for name in NAMES[folder]]
    np.testing.assert_array_equal(domain.train.identities, [1, 1, 11422])
    np.testing.assert_array_equal(domain.train.cameras, [0, 0, 0])
    assert len(domain.query) == len(domain.gallery) == 0
    assert {domain.name, domain.train.domain, domain.query.domain} == {"sysu"}
    assert CUHK_SYSU.train_only
    everybody = read_layout("cuhk_sysu:all", root, "sysu")
    assert everybody.train.images == domain.train.images


@pytest.mark.parametrize("folder", ["cropped_images", "cropped_image"])
def test_scenes_are_cameras_where_asked(tmp_path: Path, folder: str) -> None:
    domain = read_layout("cuhk_sysu:scenes", make(tmp_path / "sysu", folder), "x")
    np.testing.assert_array_equal(domain.train.cameras, [301, 16929, 16929])


def test_scenes_that_names_do_not_tell_are_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "sysu", "bounding_box_train")
    with pytest.raises(ValueError, match=r"do not tell the scene.*without the option scenes"):
        read_layout("cuhk_sysu:scenes", root, "x")


def test_nobody_is_lost_where_people_count_from_zero(tmp_path: Path) -> None:
    names = ["0000_c0_1.jpg", "0000_c1_2.jpg", "0001_c1_1.jpg"]
    root = make(tmp_path / "sysu", "bounding_box_train", names)
    for layout in ("cuhk_sysu", "cuhk_sysu:all"):
        np.testing.assert_array_equal(read_layout(layout, root, "x").train.identities, [1, 1, 2])


@pytest.mark.parametrize("folder", NAMES)
@pytest.mark.parametrize("name", ["-1_c1s1_000001_00.jpg", "s00001_p1.jpg", "p0001_s001_1.gif"])
def test_name_outside_the_grammar_is_named(tmp_path: Path, folder: str, name: str) -> None:
    root = make(tmp_path / "sysu", folder)
    (root / folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match="is not named like a crop of this set") as caught:
        read_cuhk_sysu(root, "x")
    assert GRAMMARS[folder].words in str(caught.value)


def test_one_layout_is_not_read_as_another(tmp_path: Path) -> None:
    root = make(tmp_path / "sysu", "cropped_images", NAMES["cropped_image"])
    with pytest.raises(ValueError, match=r"pPPPPP_sSSSSS_N\.jpg"):
        read_cuhk_sysu(root, "x")


def test_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cropped_image holds no crops"):
        read_cuhk_sysu(make(tmp_path / "sysu", "cropped_image", []), "x")


def test_crops_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    root = make(make(tmp_path / "sysu", "cropped_image"), "cropped_images")
    with pytest.raises(ValueError, match="the crops twice"):
        read_cuhk_sysu(root, "x")


@pytest.mark.parametrize("folder", ["query", "bounding_box_test"])
def test_market_1501_is_refused(tmp_path: Path, folder: str) -> None:
    root = make(tmp_path / "market", "bounding_box_train", ["0002_c1s1_000451_03.jpg"])
    (root / folder).mkdir()
    with pytest.raises(ValueError, match=f"market1501={root}"):
        read_cuhk_sysu(root, "x")


def test_other_roots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_cuhk_sysu(tmp_path / "nowhere", "x")
    (tmp_path / "sysu.zip").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file"):
        read_cuhk_sysu(tmp_path / "sysu.zip", "x")
    (tmp_path / "Image").mkdir()
    with pytest.raises(FileNotFoundError, match="cropped_images, cropped_image, bounding_box_tr"):
        read_cuhk_sysu(tmp_path, "x")
    with pytest.raises(ValueError, match="consent"):
        read_cuhk_sysu(make(tmp_path / "DukeMTMC", "cropped_images"), "x")
