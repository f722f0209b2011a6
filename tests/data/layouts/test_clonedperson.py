from pathlib import Path

import numpy as np
import pytest

from rayreid.data.layouts import read_layout
from rayreid.data.layouts.clonedperson import read_clonedperson

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

NAMES = {
    "train": ["700000_s02_c00_f000024.jpg", "700000_s06_c00_f000048.JPG", "-1_s06_c00_f1.jpg"],
    "test/query": ["705227_s02_c02_f001117.jpg", "705624_s12_c00_f003229.jpg"],
    "test/gallery": ["705227_s12_c02_f005521.jpg", "705624_s12_c02_f002965.jpg"],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "ClonedPerson"
    for folder, names in NAMES.items():
        (root / folder).mkdir(parents=True)
        for name in (*names, "Thumbs.db"):
            (root / folder / name).touch()
    return root


def test_every_quirk_of_the_grammar(root: Path) -> None:
    domain = read_clonedperson(root, "clonedperson")
    np.testing.assert_array_equal(domain.train.identities, [700000, 700000])
    np.testing.assert_array_equal(domain.query.identities, [705227, 705624])
    np.testing.assert_array_equal(domain.gallery.identities, [705227, 705624])
    # A camera is one of a scene: camera 2 of scene 2 is not that of scene 12.
    np.testing.assert_array_equal(domain.train.cameras, [200, 600])
    np.testing.assert_array_equal(domain.query.cameras, [202, 1200])
    np.testing.assert_array_equal(domain.gallery.cameras, [1202, 1202])
    assert domain.train.times is not None
    np.testing.assert_allclose(domain.train.times, [1, 2])
    for crops in (domain.train, domain.query, domain.gallery):
        assert all(path.is_absolute() and path.is_file() for path in crops.images)


def test_everybody_is_there_to_learn_from(root: Path) -> None:
    assert len(read_layout("clonedperson:all", root, "x").train) == 6


@pytest.mark.parametrize("folder", NAMES)
def test_missing_folders_and_crops_are_named(root: Path, folder: str) -> None:
    for path in (root / folder).glob("7*"):
        path.unlink()
    with pytest.raises(ValueError, match="holds no crops") as caught:
        read_clonedperson(root, "x")
    assert str(root / folder) in str(caught.value)
    (root / folder).rename(root / "other")
    with pytest.raises(FileNotFoundError, match="ClonedPerson, with the folders train, test/query"):
        read_clonedperson(root, "x")


@pytest.mark.parametrize(
    "name",
    ["0001_c1s1_000001_00.jpg", "700000_s2_c0_f000001.jpg", "700000_s02_c00_f000001.gif"],
)
def test_name_outside_the_grammar_is_named(root: Path, name: str) -> None:
    (root / "test" / "query" / name).touch()
    with pytest.raises(ValueError, match=r"PPPPPP_sSS_cCC_fFFFFFF\.jpg") as caught:
        read_clonedperson(root, "x")
    assert name in str(caught.value)


def test_its_demonstration_is_of_another_layout() -> None:
    demonstration = SHARED / "clonedperson_demo"
    if not demonstration.is_dir():
        pytest.skip(f"no data set at {demonstration}")
    with pytest.raises(FileNotFoundError, match="read as market1501="):
        read_clonedperson(demonstration, "x")


def test_roots_that_are_none_are_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_clonedperson(root / "nowhere", "x")
    with pytest.raises(ValueError, match="is a file"):
        read_clonedperson(root / "train" / "Thumbs.db", "x")
    with pytest.raises(ValueError, match="consent"):
        read_clonedperson(root.rename(root.parent / "DukeMTMC"), "x")
