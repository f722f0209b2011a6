"""Checking: what is missing, broken, leaked or mislabelled is found, and nothing else is."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from rayreid.data import checking
from rayreid.data.checking import Checked, check, published
from rayreid.data.layouts import FOLDERS as LAYOUTS
from rayreid.data.layouts import parse_layout
from rayreid.data.layouts.grammar import Layout
from rayreid.data.layouts.market1501 import read_market1501
from rayreid.data.sources import SyntheticSettings
from tests.data.folders import crop_file, market

SHARED = Path(__file__).parents[3] / "shared" / "data"
DRAWN = SyntheticSettings(train_people=3, test_people=2, cameras=2, crops=2)
FULL = "train 5/3, query 3/2, gallery 5"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return market(tmp_path / "mini")


def checked(root: Path, full: str | None = None, **options: bool) -> Checked:
    """Check a set, as if ``full`` were the published counts of its layout."""
    with pytest.MonkeyPatch.context() as patch:
        counts = {"": full} if full else {}
        patch.setitem(LAYOUTS, "market1501", Layout(read_market1501, "", counts=counts))
        return check(f"market1501={root}", **options)


def faults(found: Checked) -> list[str]:
    return [finding.says for finding in found.findings if finding.fault]


def test_a_full_set_has_no_faults_but_notes(root: Path) -> None:
    # 6 is seen by camera 2 alone, so that its query can match nothing.
    crop_file(root, "query", 6, 2).unlink()
    found = checked(root, "train 5/3, query 2/1, gallery 5")
    assert faults(found) == []
    assert list(found.counted) == [
        "train: 5 of 5 crops, 3 identities, 2 cameras",
        "query: 2 of 2 crops, 1 identity, 2 cameras",
        "gallery: 5 of 5 crops, 2 identities, 2 distractors, 2 cameras",
    ]
    assert [(finding.says, finding.names) for finding in found.findings] == [
        ("1 of 3 identities in train are in one camera only", ["id 3"]),
        ("1 of 2 identities in query and gallery are in one camera only", ["id 6"]),
    ]


def test_without_published_counts_crops_are_just_counted(root: Path) -> None:
    assert checked(root).counted[0] == "train: 5 crops, 3 identities, 2 cameras"
    assert checked(root, FULL, whole=False).counted == checked(root).counted
    shutil.rmtree(root / "bounding_box_train")
    assert [line.split(":")[0] for line in checked(root).counted] == ["query", "gallery"]
    assert checked(root, FULL).counted[0] == "train: 0 of 5 crops, 0 identities, 0 cameras"


def test_what_is_missing_or_too_much_is_counted(root: Path) -> None:
    (query,) = faults(checked(root, FULL))
    assert "can never match" in query
    crop_file(root, "gallery", 0, 1).unlink()
    crop_file(root, "train", 1, 1).unlink()
    shutil.copy(crop_file(root, "query", 5, 1), crop_file(root, "query", 5, 1, box=7))
    assert faults(checked(root, FULL))[:2] == [
        "1 train, 1 gallery crops fewer than the full set: unpack it again, or say --no-counts "
        "if this is another set in its layout",
        "1 query crops more than the full set: remove what was added, or say --no-counts if this "
        "is another set in its layout",
    ]
    assert not any("full set" in fault for fault in faults(checked(root, FULL, whole=False)))


def test_as_many_crops_of_other_people_are_not_the_full_set(root: Path) -> None:
    crop_file(root, "train", 3, 1).rename(crop_file(root, "train", 2, 1, box=5))
    assert any(
        "2 identities in train, where the full set has 3" in f for f in faults(checked(root, FULL))
    )


def test_broken_crops_are_named(root: Path) -> None:
    empty, cut = crop_file(root, "train", 1, 1), crop_file(root, "gallery", 5, 1)
    empty.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[:-600])
    (finding,) = [f for f in checked(root).findings if "broken" in f.says]
    assert finding.says == "1 broken crop: replace or remove"
    assert finding.names == [f"{empty}: it is empty"]
    (finding,) = [f for f in checked(root, decode=True).findings if "broken" in f.says]
    assert finding.says.startswith("2 broken crops")
    assert finding.fault
    (finding,) = [f for f in checked(root, broken_is_fault=False).findings if "broken" in f.says]
    assert not finding.fault


COPIES: Mapping[str, tuple[tuple[str, int, int], tuple[str, int, int], bool]] = {
    "in train and in query or gallery too: a leak": (("train", 1, 1), ("gallery", 5, 1), True),
    "with different identities: a labelling mistake": (("train", 1, 1), ("train", 2, 1), True),
    "with different cameras: a labelling mistake": (("query", 5, 1), ("gallery", 5, 2), True),
    "of one identity in one camera": (("query", 5, 1), ("gallery", 5, 1), False),
}


@pytest.mark.parametrize("means", COPIES)
def test_exact_copies(root: Path, means: str) -> None:
    one, other, fault = COPIES[means]
    shutil.copy(crop_file(root, *one), crop_file(root, *other))
    (finding,) = [f for f in checked(root).findings if "copies" in f.says]
    assert finding.says == f"1 group of exact copies {means}"
    assert finding.fault == fault
    (names,) = finding.names
    assert str(crop_file(root, *one)) in names
    assert str(crop_file(root, *other)) in names


def test_a_person_and_a_distractor_of_the_same_bytes_are_a_labelling_mistake(root: Path) -> None:
    shutil.copy(crop_file(root, "gallery", 0, 1), crop_file(root, "gallery", 5, 1))
    assert any("different identities" in fault for fault in faults(checked(root)))


def test_queries_that_never_match_are_named(root: Path) -> None:
    (finding,) = [f for f in checked(root).findings if "match" in f.says]
    assert finding.fault
    assert finding.says.startswith("1 of 3 queries can never match")
    assert finding.names == [str(crop_file(root, "query", 6, 2))]


def test_two_crops_of_one_moment_are_a_note(root: Path) -> None:
    one, other = crop_file(root, "train", 1, 1), crop_file(root, "train", 1, 1, box=1)
    shutil.copy(crop_file(root, "train", 1, 2), other)
    (finding,) = [f for f in checked(root).findings if "frame" in f.says]
    assert not finding.fault
    assert finding.names == [f"{one}, {other}"]


def test_the_report_names_the_first_ten(root: Path) -> None:
    for box in range(1, 13):
        crop_file(root, "train", 1, 1, box).write_bytes(b"")
    lines = list(checked(root).lines())
    assert lines[0] == f"market1501={root}"
    start = lines.index("  ! 12 broken crops: replace or remove")
    assert all(line.endswith(": it is empty") for line in lines[start + 1 : start + 11])
    assert lines[start + 11] == "      and 2 more"
    marks = [line[2] for line in lines if line[2] in "!-"]
    assert marks == sorted(marks), "faults come first"


def test_a_source_that_cannot_be_opened_is_a_finding(tmp_path: Path) -> None:
    found = check(f"market1501={tmp_path / 'absent'}")
    assert found.faults == 1
    assert "no data set at" in faults(found)[0]
    with pytest.raises(ValueError, match="did you mean 'market1501'"):
        check("market1502=/data")


def test_drawn_people_are_as_they_should_be() -> None:
    found = check("synthetic=snow", synthetic=DRAWN)
    assert found.counted[0] == "train: 12 crops, 3 identities, 2 cameras"
    assert list(found.findings) == []


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_published_counts_are_read(name: str) -> None:
    for way, text in LAYOUTS[name].counts.items():
        layout = f"{name}:{way}" if way else name
        parse_layout(layout)
        told = published(layout)
        said = [f"{part} {crops}" + (f"/{people}" if people is not None else "")
                for part, (crops, people) in told.items()]  # fmt: skip
        assert ", ".join(said) == text


def test_counts_are_chosen_by_the_options() -> None:
    layouts = {"set": Layout(read_market1501, "", counts={"": "train 5/3", "all,big": "train 9/4"})}
    assert published("set", layouts) == published("set:2", layouts) == {"train": (5, 3)}
    assert published("set:big,all", layouts) == published("set:3,all,big", layouts)
    assert published("set:big,all", layouts) == {"train": (9, 4)}
    assert published("set:all", layouts) == published("synthetic", layouts) == {}


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_a_set_that_was_not_made_here() -> None:
    found = check(f"market1501={SHARED / 'multiviewx_b'}", decode=True, whole=False)
    assert list(found.counted) == [
        "query: 58 crops, 22 identities, 6 cameras",
        "gallery: 89 crops, 25 identities, 6 cameras",
    ]
    assert found.faults == 0
    assert re.search(r"1 of 25 identities .* one camera only", found.findings[0].says)
    assert checking.check(f"market1501={SHARED / 'multiviewx_b'}").faults == 1
