from pathlib import Path

import numpy as np
import pytest

from rayreid.data.layouts import parse_layout, read_layout
from rayreid.data.layouts.ilids import ILIDS, read_ilids
from rayreid.data.layouts.splits import ten_splits
from tests.data.layouts.miniature import added, hidden


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an i-LIDS of 119 people with 2 to 6 crops each, of empty files."""
    root = tmp_path_factory.mktemp("i-LIDS_Pedestrian")
    (root / "Persons").mkdir(parents=True)
    for person in range(1, 120):
        for image in range(1, 3 + person % 5):
            suffix = ".JPG" if person == 5 else ".jpg"
            (root / "Persons" / f"{person:04}{image:03}{suffix}").touch()
    (root / "Persons" / "Thumbs.db").touch()
    return root


def test_a_split_of_all_people(root: Path) -> None:
    domain = read_ilids(root, "ilids")
    tested = sorted(ten_splits("ilids")[0])
    assert ILIDS.counts[""] == "query 60/60, gallery 60/60"
    np.testing.assert_array_equal(domain.query.identities, tested)
    np.testing.assert_array_equal(domain.gallery.identities, tested)
    learnt = set(range(1, 120)) - set(tested)
    assert set(domain.train.identities.tolist()) == learnt
    assert len(domain.train) == sum(2 + person % 5 for person in learnt)
    for crops in (domain.train, domain.query, domain.gallery):
        for path, person, camera in zip(crops.images, crops.identities, crops.cameras, strict=True):
            assert path.is_absolute()
            assert path.is_file()
            assert (int(path.name[:4]), int(path.name[4:7])) == (person, camera)
    # No match is of the query's camera.
    assert (domain.query.cameras != domain.gallery.cameras).all()


def test_the_crops_drawn_are_the_same_for_ever_and_differ_between_splits(root: Path) -> None:
    drawn = [read_layout(f"ilids:{split}", root, "x") for split in (1, 2)]
    assert [path.name for path in drawn[0].query.images[:5]] == [
        "0001003.jpg",
        "0002002.jpg",
        "0003001.jpg",
        "0006002.jpg",
        "0007003.jpg",
    ]
    assert [path.name for path in drawn[0].gallery.images[:5]] == [
        "0001002.jpg",
        "0002004.jpg",
        "0003005.jpg",
        "0006003.jpg",
        "0007001.jpg",
    ]
    assert len(set(drawn[0].query.cameras.tolist())) > 3
    one, two = (
        dict(zip(domain.query.identities.tolist(), domain.query.images, strict=True))
        for domain in drawn
    )
    both = one.keys() & two.keys()
    assert sum(one[person] != two[person] for person in both) > len(both) / 3


def test_a_draw_depends_on_the_crops_of_its_person_alone(root: Path) -> None:
    before = read_ilids(root, "x")
    learnt = int(before.train.identities[0])
    with added(root / "Persons" / f"{learnt:04}009.jpg"):
        assert read_ilids(root, "x").query.images == before.query.images


def test_gaps_in_the_numbers_do_not_matter(root: Path) -> None:
    before = read_ilids(root, "x")
    with (
        hidden(*(root / "Persons").glob("0119*.jpg")),
        added(root / "Persons" / "0300001.jpg"),
        added(root / "Persons" / "0300002.jpg"),
    ):
        after = read_ilids(root, "x")
    np.testing.assert_array_equal(after.query.identities, before.query.identities)
    assert set(after.train.identities.tolist()) == set(before.train.identities.tolist())


def test_swapped_changes_places(root: Path) -> None:
    one, other = (read_layout(f"ilids:{words}", root, "x") for words in ("7", "7,swapped"))
    assert one.query.images == other.gallery.images
    assert one.gallery.images == other.query.images
    assert one.train.images == other.train.images


def test_ten_splits_are_chosen_by_number(root: Path) -> None:
    for number in (1, 10):
        domain = read_layout(f"ilids:{number}", root, "x")
        assert set(domain.query.identities.tolist()) == ten_splits("ilids")[number - 1]
    with pytest.raises(ValueError, match="option of the layout ilids"):
        parse_layout("ilids:11")


def test_the_other_name_of_the_folder_is_known(root: Path) -> None:
    expected = [path.name for path in read_ilids(root, "x").query.images]
    with hidden(root / "Persons"):
        with pytest.raises(FileNotFoundError, match="i-LIDS, with the folder Persons"):
            read_ilids(root, "x")
        (root / "images").symlink_to(root / ".Persons")
        found = [path.name for path in read_ilids(root, "x").query.images]
        (root / "images").unlink()
    assert found == expected


def test_missing_people_are_counted(root: Path) -> None:
    with (
        hidden(*(root / "Persons").glob("0007*")),
        pytest.raises(ValueError, match="shows 118 people, not the 119"),
    ):
        read_ilids(root, "x")


def test_a_person_who_cannot_be_found_is_named(root: Path) -> None:
    person = min(ten_splits("ilids")[0])
    with (
        hidden(*sorted((root / "Persons").glob(f"{person:04}*"))[1:]),
        pytest.raises(ValueError, match=f"{person:04}001.jpg is the only crop of its person"),
    ):
        read_ilids(root, "x")


def test_one_number_twice_is_named(root: Path) -> None:
    with (
        added(root / "Persons" / "0003001.png"),
        pytest.raises(ValueError, match=r"0003001\.png has a namesake"),
    ):
        read_ilids(root, "x")


@pytest.mark.parametrize("name", ["0001.jpg", "00010001.jpg", "0001001.gif", "001_45.jpg"])
def test_name_outside_the_grammar_is_named(root: Path, name: str) -> None:
    with added(root / "Persons" / name), pytest.raises(ValueError, match=r"PPPPIII\.jpg"):
        read_ilids(root, "x")


def test_roots_that_are_none_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_ilids(root / "nowhere", "x")
    with pytest.raises(ValueError, match="is a file"):
        read_ilids(root / "Persons" / "Thumbs.db", "x")
    (tmp_path / "DukeMTMC").symlink_to(root)
    with pytest.raises(ValueError, match="consent"):
        read_ilids(tmp_path / "DukeMTMC", "x")
