from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from rayreid.data.layouts import parse_layout, read_layout
from rayreid.data.layouts.grid import GRID, PARTITIONS, read_grid
from tests.data.layouts.miniature import added, hidden

FOLDS = [np.random.default_rng(fold).permutation(np.arange(1, 251))[:125] for fold in range(10)]


def write_partitions(file: Path, folds: Sequence[np.ndarray], **other: object) -> None:
    """Write splits as the set's authors did: a row of cells with a struct in each."""
    cells = np.empty((1, len(folds)), dtype=object)
    for n, people in enumerate(folds):
        cells[0, n] = {
            "galleryImIdx": 2 * people - 1,
            "probeImIdx": 2 * people,
            "personIdx": people,
        }
    savemat(file, {"ftrset": np.ones((5, 3)), "trainIdxAll": cells, **other}, do_compression=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a whole GRID of empty files, with splits of its form."""
    root = tmp_path_factory.mktemp("underground_reid")
    for folder, camera in (("probe", 1), ("gallery", 2)):
        (root / folder).mkdir(parents=True)
        for person in range(1, 251):
            seen = camera + person % 3 * 2
            suffix = ".JPEG" if person == 5 else ".jpeg"
            name = f"{person:04}_{seen}_{25000 + person}_107_32_106_221{suffix}"
            (root / folder / name).touch()
        (root / folder / "Thumbs.db").touch()
    for n in range(775):
        (root / "gallery" / f"0000_{n % 8 + 1}_{26000 + n}_101_16_87_246.jpeg").touch()
    write_partitions(root / PARTITIONS, FOLDS)
    return root


@pytest.mark.parametrize("number", [1, 4, 10])
def test_its_own_splits(root: Path, number: int) -> None:
    domain = read_layout(f"grid:{number}" if number > 1 else "grid", root, "grid")
    learnt = sorted(FOLDS[number - 1].tolist())
    tested = sorted(set(range(1, 251)) - set(learnt))
    assert GRID.counts[""] == "train 250/125, query 125/125, gallery 900"
    assert (len(domain.train), len(domain.query), len(domain.gallery)) == (250, 125, 900)
    np.testing.assert_array_equal(domain.train.identities, learnt * 2)
    np.testing.assert_array_equal(domain.query.identities, tested)
    np.testing.assert_array_equal(domain.gallery.identities, [0] * 775 + tested)
    assert set(domain.gallery.cameras.tolist()) == set(range(1, 9))
    for crops, folders in (
        (domain.train, {"probe", "gallery"}),
        (domain.query, {"probe"}),
        (domain.gallery, {"gallery"}),
    ):
        assert {path.parent.name for path in crops.images} == folders
        for path, person, camera in zip(crops.images, crops.identities, crops.cameras, strict=True):
            assert path.is_absolute()
            assert path.is_file()
            assert (int(path.name[:4]), int(path.name[5])) == (person, camera)


def test_swapped_keeps_the_distractors_in_the_gallery(root: Path) -> None:
    one, other = (read_layout(f"grid:{words}", root, "x") for words in ("2", "2,swapped"))
    assert (len(other.query), len(other.gallery)) == (125, 900)
    assert other.query.images == one.gallery.images[775:]
    assert {*other.gallery.images} == {*one.query.images, *one.gallery.images[:775]}
    assert other.train.images == one.train.images


def test_everybody_is_there_to_learn_from(root: Path) -> None:
    domain = read_layout("grid:all", root, "x")
    assert GRID.counts["all"] == "train 500/250"
    assert len(domain.train) == 500
    assert set(domain.train.identities.tolist()) == set(range(1, 251))


def test_splits_in_columns_are_read_too(root: Path) -> None:
    before = read_grid(root, "x")
    with hidden(root / PARTITIONS):
        write_partitions(root / PARTITIONS, [people[:, None] for people in FOLDS])
        assert read_grid(root, "x").train.images == before.train.images
        (root / PARTITIONS).unlink()


def test_one_split_of_ten_is_read(root: Path) -> None:
    with pytest.raises(ValueError, match="option of the layout grid"):
        parse_layout("grid:11")
    with pytest.raises(ValueError, match="splits 1 and 2 are asked for"):
        read_layout("grid:1,2", root, "x")


def test_splits_that_are_none_are_named(root: Path) -> None:
    file = root / PARTITIONS
    whole = file.read_bytes()

    def expect(said: str) -> None:
        with pytest.raises(ValueError, match=said) as caught:
            read_layout("grid:10", root, "x")
        assert str(file) in str(caught.value)

    for damaged in (b"", b"not MATLAB", whole[: len(whole) // 2], b"MATLAB 7.3 MAT-file" + whole):
        file.write_bytes(damaged)
        expect("does not hold GRID's ten splits as MATLAB 5 wrote them")
    savemat(file, {"trainIdxAll": np.arange(10)})
    expect("does not hold GRID's ten splits")
    savemat(file, {"other": np.arange(10)})
    expect("does not hold GRID's ten splits")
    write_partitions(file, FOLDS[:9])
    expect("does not hold GRID's ten splits")
    write_partitions(file, [*FOLDS[:9], np.array([], dtype=int)])
    expect("has nobody to learn from in split 10")
    write_partitions(file, [*FOLDS[:9], np.array([3, 251])])
    expect("names person 251, whom no crop shows")
    file.unlink()
    with pytest.raises(FileNotFoundError, match="features_and_partitions"):
        read_grid(root, "x")
    file.write_bytes(whole)


def test_a_file_of_splits_that_is_too_large_is_not_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayreid.data.layouts.grid.MAX_PARTITIONS_BYTES", 100)
    with pytest.raises(ValueError, match="more bytes than"):
        read_grid(root, "x")


@pytest.mark.parametrize("folder", ["probe", "gallery"])
def test_missing_crops_are_named(root: Path, folder: str) -> None:
    with (
        hidden(*(root / folder).glob("0017_*")),
        pytest.raises(ValueError, match="shows person 0017 in one of probe and gallery only"),
    ):
        read_grid(root, "x")
    with (
        hidden(root / folder),
        pytest.raises(FileNotFoundError, match="GRID, with the folders probe and gallery"),
    ):
        read_grid(root, "x")


def test_a_second_crop_of_somebody_is_named(root: Path) -> None:
    with (
        added(root / "gallery" / "0017_2_1.jpeg"),
        pytest.raises(ValueError, match="show the same person"),
    ):
        read_grid(root, "x")


@pytest.mark.parametrize("name", ["0001.jpeg", "0001_c1s1_000001_00.jpg", "0001_1_2.gif"])
def test_name_outside_the_grammar_is_named(root: Path, name: str) -> None:
    with added(root / "probe" / name), pytest.raises(ValueError, match=r"PPPP_C_\*\.jpeg"):
        read_grid(root, "x")


def test_roots_that_are_none_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_grid(root / "nowhere", "x")
    with pytest.raises(ValueError, match="is a file"):
        read_grid(root / PARTITIONS, "x")
    (tmp_path / "DukeMTMC").symlink_to(root)
    with pytest.raises(ValueError, match="consent"):
        read_grid(tmp_path / "DukeMTMC", "x")
