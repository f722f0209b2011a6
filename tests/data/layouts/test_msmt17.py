import logging
from pathlib import Path

import numpy as np
import pytest

from rayreid.data.layouts import read_layout
from rayreid.data.layouts.msmt17 import MSMT17, VERSIONS, read_msmt17

TRAIN = {
    "0000/0000_000_01_0303morning_0008_0.jpg": 0,
    "0000/0000_003_14_0113noon_0020_2_ex.jpg": 0,
    "0002/0002_000_05_0302afternoon_0001_0.jpg": 2,
}
VAL = {"0001/0001_000_09_0114morning_0008_0.jpg": 1, "0000/0000_009_15_0114noon_0001_0.jpg": 0}
QUERY = {"0000/0000_000_01_0303morning_0015_0.jpg": 0, "0001/0001_000_02_0303noon_0001_0.jpg": 1}
GALLERY = {"0000/0000_001_03_0303morning_0015_0.jpg": 0, "0003/0003_000_02_0303noon_01_0.jpg": 3}


def make(root: Path, version: str = "V1") -> Path:
    lists = {"train": TRAIN, "val": VAL, "query": QUERY, "gallery": GALLERY}
    for part, lines in lists.items():
        folder = root / VERSIONS[version][part in ("query", "gallery")]
        for crop in lines:
            (folder / crop).parent.mkdir(parents=True, exist_ok=True)
            (folder / crop).write_bytes(b"")
        text = "".join(f"{crop} {person}\n" for crop, person in lines.items())
        (root / f"list_{part}.txt").write_text(text)
    return root


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_the_whole_grammar(tmp_path: Path, version: str) -> None:
    root = make(tmp_path / "msmt", version)
    domain = read_msmt17(root, "msmt")
    train, test = VERSIONS[version]
    for crops, folder, names in (
        (domain.train, train, [*TRAIN, *VAL]),
        (domain.query, test, QUERY),
        (domain.gallery, test, GALLERY),
    ):
        assert crops.domain == domain.name == "msmt"
        assert crops.images == [root / folder / name for name in names]
        assert all(path.is_absolute() and path.is_file() for path in crops.images)
    # The lists' people 0, 1, 2 are 1, 2, 3; those of the test lists come after them.
    np.testing.assert_array_equal(domain.train.identities, [1, 1, 3, 2, 1])
    np.testing.assert_array_equal(domain.train.cameras, [1, 14, 5, 9, 15])
    np.testing.assert_array_equal(domain.query.identities, [4, 5])
    np.testing.assert_array_equal(domain.gallery.identities, [4, 7])
    np.testing.assert_array_equal(domain.gallery.cameras, [3, 2])


def test_val_is_left_out_where_asked(tmp_path: Path) -> None:
    # The highest number is val's, and people keep theirs without it.
    root = make(tmp_path / "msmt")
    crop = "0005/0005_000_09_0114morning_0008_0.jpg"
    (root / "train" / crop).parent.mkdir()
    (root / "train" / crop).write_bytes(b"")
    (root / "list_val.txt").write_text(f"{crop} 5\n")
    (root / "train" / "0001/0001_000_09_0114morning_0008_0.jpg").unlink()
    (root / "train" / "0000/0000_009_15_0114noon_0001_0.jpg").unlink()
    joined = read_layout("msmt17", root, "x")
    apart = read_layout("msmt17:val_apart", root, "x")
    assert apart.train.images == [root / "train" / crop for crop in TRAIN]
    assert joined.train.images == [*apart.train.images, root / "train" / crop]
    np.testing.assert_array_equal(apart.train.identities, joined.train.identities[:3])
    for domain in (joined, apart):
        np.testing.assert_array_equal(domain.query.identities, [7, 8])


def test_everybody_is_told_apart(tmp_path: Path) -> None:
    domain = read_layout("msmt17:all", make(tmp_path / "msmt"), "x")
    np.testing.assert_array_equal(domain.train.identities, [1, 1, 3, 2, 1, 4, 5, 4, 7])


@pytest.mark.parametrize(
    ("options", "said"),
    [("", "2 validation crops are learnt from"), (":val_apart", "2 validation crops are left out")],
)
def test_what_was_done_with_val_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: str, said: str
) -> None:
    root = make(tmp_path / "msmt", "V2")
    with caplog.at_level(logging.INFO):
        read_layout(f"msmt17{options}", root, "x")
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert said in record.getMessage()
    assert f"{root} is MSMT17 V2" in record.getMessage()


def test_crops_without_a_list_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make(tmp_path / "msmt")
    before = read_msmt17(root, "x")
    for name in (
        "0000/0000_777_01_0303morning_0008_0.jpg",
        "0099/0099_000_01_0303morning_0008_0.JPG",
        "0000/Thumbs.db",
        "0000/._0000_000_01_0303morning_0008_0.jpg",
        ".DS_Store",
    ):
        (root / "train" / name).parent.mkdir(exist_ok=True)
        (root / "train" / name).write_bytes(b"")
    domain = read_msmt17(root, "x")
    assert domain.train.images == before.train.images
    (said,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert said == f"{root / 'train'} has 2 crops that no list names: left out"


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".png"])
def test_suffixes_may_differ_from_the_lists(tmp_path: Path, suffix: str) -> None:
    root = make(tmp_path / "msmt")
    crop = root / "test" / next(iter(QUERY))
    crop.rename(crop.with_suffix(suffix))
    assert read_msmt17(root, "x").query.images[0] == crop.with_suffix(suffix)


def test_lists_from_windows_are_read(tmp_path: Path) -> None:
    root = make(tmp_path / "msmt")
    text = (root / "list_query.txt").read_text()
    (root / "list_query.txt").write_bytes(text.replace("\n", "\r\n").encode() + b"\r\n")
    assert len(read_msmt17(root, "x").query) == 2


@pytest.mark.parametrize("crop", [next(iter(TRAIN)), next(iter(VAL))])
def test_a_listed_crop_that_is_missing_is_named(tmp_path: Path, crop: str) -> None:
    root = make(tmp_path / "msmt")
    (root / "train" / crop).unlink()
    with pytest.raises(FileNotFoundError, match="lacks 1 of the crops") as caught:
        read_msmt17(root, "x")
    assert str(root / "train") in str(caught.value)
    assert crop.removesuffix(".jpg") in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "0000/0000_000_01_0303morning_0008_0.jpg",
        "0000_000_01_0303morning_0008_0.jpg 0",
        "../0000/0000_000_01_0303morning_0008_0.jpg 0",
        "0000/0000_000_xx_0303morning_0008_0.jpg 0",
        "0000/0000_000_01_../../secret.jpg 0",
        "0000/0000_000_01_0303morning_0008_0.gif 0",
        "0000/0000_000_01_0303morning_0008_0.jpg -1",
        f"0000/0000_000_01_0303morning_0008_0.jpg {10**30}",
        "\N{GREEK SMALL LETTER ALPHA}" * 500,
    ],
)
def test_a_line_outside_the_grammar_is_named(tmp_path: Path, line: str) -> None:
    root = make(tmp_path / "msmt")
    with (root / "list_query.txt").open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(ValueError, match=r"in line 4.*PPPP_III_CC_DDDDtime") as caught:
        read_msmt17(root, "x")
    assert str(root / "list_query.txt") in str(caught.value)
    assert len(str(caught.value)) < 500


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    root = make(tmp_path / "msmt")
    (root / "list_val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="line 1"):
        read_msmt17(root, "x")


@pytest.mark.parametrize(("part", "other"), [("train", "val"), ("query", "gallery")])
def test_a_crop_that_is_named_twice_is_refused(tmp_path: Path, part: str, other: str) -> None:
    root = make(tmp_path / "msmt")
    line = (root / f"list_{part}.txt").read_text().splitlines()[0]
    (root / f"list_{other}.txt").write_text(line)
    with pytest.raises(ValueError, match="twice"):
        read_msmt17(root, "x")


@pytest.mark.parametrize("part", ["train", "val", "query", "gallery"])
def test_lists_are_needed(tmp_path: Path, part: str) -> None:
    root = make(tmp_path / "msmt")
    (root / f"list_{part}.txt").write_text("\n")
    with pytest.raises(ValueError, match="names no crop") as caught:
        read_msmt17(root, "x")
    assert f"list_{part}.txt" in str(caught.value)
    (root / f"list_{part}.txt").unlink()
    with pytest.raises(FileNotFoundError, match=f"list_{part}.txt"):
        read_msmt17(root, "x")


def test_a_list_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    root = make(tmp_path / "msmt")
    with (root / "list_val.txt").open("ab") as file:
        file.truncate(100_000_001)
    with pytest.raises(ValueError, match="more than 100,000,000 bytes"):
        read_msmt17(root, "x")


def test_both_folders_of_a_version_are_needed(tmp_path: Path) -> None:
    root = make(tmp_path / "msmt")
    (root / "test").rename(tmp_path / "test")
    with pytest.raises(FileNotFoundError, match=f"no folder {root / 'test'}"):
        read_msmt17(root, "x")


def test_two_versions_in_one_folder_are_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "msmt")
    (root / "mask_train_v2").mkdir()
    with pytest.raises(ValueError, match="holds both versions"):
        read_msmt17(root, "x")


def test_a_conversion_is_sent_to_its_reader(tmp_path: Path) -> None:
    (tmp_path / "bounding_box_train").mkdir()
    with pytest.raises(ValueError, match=f"market1501={tmp_path}"):
        read_msmt17(tmp_path, "x")


def test_other_roots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_msmt17(tmp_path / "nowhere", "x")
    (tmp_path / "msmt.zip").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file"):
        read_msmt17(tmp_path / "msmt.zip", "x")
    (tmp_path / "cam_a").mkdir()
    with pytest.raises(FileNotFoundError, match=r"list_train\.txt.*mask_train_v2"):
        read_msmt17(tmp_path, "x")
    with pytest.raises(ValueError, match="consent"):
        read_msmt17(make(tmp_path / "DukeMTMC-reID"), "x")


def test_published_counts_add_up() -> None:
    assert 32_621 - 30_248 == 2_373
    assert MSMT17.counts["all"] == f"train {32_621 + 11_659 + 82_161}/4101"
