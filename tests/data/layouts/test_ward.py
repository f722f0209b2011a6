from pathlib import Path

import numpy as np
import pytest

from rayreid.data.layouts import parse_layout, read_layout
from rayreid.data.layouts.splits import ten_splits
from rayreid.data.layouts.ward import WARD, read_ward
from tests.data.layouts.miniature import added, hidden


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a WARD of 70 people, 3 cameras and 1 to 3 crops in each, of empty files."""
    root = tmp_path_factory.mktemp("WARD")
    for person in range(1, 71):
        for camera in (1, 2, 3):
            for frame in range(1, 2 + (person + camera) % 3):
                suffix = ".PNG" if person == 5 else ".png"
                (root / f"{person:04}{camera:04}{frame:04}{suffix}").touch()
    (root / "Thumbs.db").touch()
    return root


def test_a_split_of_all_people(root: Path) -> None:
    domain = read_ward(root, "ward")
    tested = sorted(ten_splits("ward")[0])
    assert WARD.counts[""] == "query 105/35"
    np.testing.assert_array_equal(domain.query.identities, np.repeat(tested, 3))
    np.testing.assert_array_equal(domain.query.cameras, [1, 2, 3] * 35)
    assert {path.name[8:12] for path in domain.query.images} == {"0001"}
    assert "0001" not in {path.name[8:12] for path in domain.gallery.images}
    assert set(domain.train.identities.tolist()) == set(range(1, 71)) - set(tested)
    parts = (domain.train, domain.query, domain.gallery)
    assert sum(map(len, parts)) == len(list(root.glob("*.[pP]*")))
    for crops in parts:
        for path, person, camera in zip(crops.images, crops.identities, crops.cameras, strict=True):
            assert path.is_absolute()
            assert path.is_file()
            assert (int(path.name[:4]), int(path.name[4:8])) == (person, camera)
    assert set(domain.gallery.identities.tolist()) <= set(tested)


def test_the_first_frame_left_is_the_query(root: Path) -> None:
    person = min(ten_splits("ward")[0])
    with (
        hidden(*root.glob(f"{person:04}0002*")),
        added(root / f"{person:04}00020012.png"),
        added(root / f"{person:04}00020009.png"),
    ):
        domain = read_ward(root, "x")
    assert [path.name[8:12] for path in domain.query.images[:3]] == ["0001", "0009", "0001"]
    assert f"{person:04}00020012.png" in {path.name for path in domain.gallery.images}


def test_ten_splits_are_chosen_by_number(root: Path) -> None:
    for number in (1, 10):
        domain = read_layout(f"ward:{number}", root, "x")
        assert set(domain.query.identities.tolist()) == ten_splits("ward")[number - 1]
    with pytest.raises(ValueError, match="option of the layout ward"):
        parse_layout("ward:11")
    # Three cameras have no other side.
    with pytest.raises(ValueError, match="option of the layout ward"):
        parse_layout("ward:swapped")


def test_everybody_is_there_to_learn_from(root: Path) -> None:
    domain = read_layout("ward:all", root, "x")
    assert len(domain.train) == len(list(root.glob("*.[pP]*")))
    assert set(domain.train.identities.tolist()) == set(range(1, 71))


def test_missing_people_are_counted(root: Path) -> None:
    with (
        hidden(*root.glob("0007*")),
        pytest.raises(ValueError, match="shows 69 people, not the 70"),
    ):
        read_ward(root, "x")


@pytest.mark.parametrize("name", ["0001001.png", "0001_c1s1_000001_00.jpg", "000100010001.gif"])
def test_name_outside_the_grammar_is_named(root: Path, name: str) -> None:
    with added(root / name), pytest.raises(ValueError, match=r"PPPPCCCCFFFF\.png"):
        read_ward(root, "x")


def test_roots_that_are_none_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_ward(root / "nowhere", "x")
    with pytest.raises(ValueError, match="is a file"):
        read_ward(root / "Thumbs.db", "x")
    (tmp_path / "query").mkdir()
    with pytest.raises(
        FileNotFoundError, match="not laid out like WARD, with the crops themselves"
    ):
        read_ward(tmp_path, "x")
    (tmp_path / "DukeMTMC").symlink_to(root)
    with pytest.raises(ValueError, match="consent"):
        read_ward(tmp_path / "DukeMTMC", "x")
