import csv
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayreid.batch import Domain
from rayreid.data.layouts import read_layout
from rayreid.data.layouts.manifest import read_manifest

IMAGES = [f"{letter}.jpg" for letter in "abcdef"]
Columns = Mapping[str, Sequence[object]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    (folder / "inner").mkdir(parents=True)
    for name in (*IMAGES, "inner/a.jpg", "né, 王.jpg"):
        (folder / name).touch()
    return folder


def write(folder: Path, kind: str, columns: Columns) -> Path:
    """Write columns as a manifest, in CSV as a spreadsheet program would."""
    file = folder / f"manifest.{kind}"
    if kind.lower() == "parquet":
        pq.write_table(pa.table(dict(columns)), file)
        return file
    with file.open("w", encoding="utf-8-sig", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))
    return file


def same(one: Domain, other: Domain) -> bool:
    return all(
        a.images == b.images
        and np.array_equal(a.identities, b.identities)
        and np.array_equal(a.cameras, b.cameras)
        and (a.times is None) == (b.times is None)
        and (a.times is None or b.times is None or np.array_equal(a.times, b.times))
        for a, b in (
            (one.train, other.train),
            (one.query, other.query),
            (one.gallery, other.gallery),
        )
    )


FULL: Columns = {
    "split": ["train", "query", "gallery", "gallery", "train", "gallery"],
    "path": ["a.jpg", "inner/a.jpg", "né, 王.jpg", "./b.jpg", "inner/../c.jpg", "d.jpg"],
    "time": [0.5, 1.0, 2.0, -3.0, 1e6, 0.0],
    "identity": ["Zoë", "王", "王", "amy", "Zoë", "bob"],
    "camera": ["yard", "door", "yard", "hall", "hall", "door"],
    "domain": ["school"] * 6,
}


@pytest.mark.parametrize("kind", ["csv", "CSV", "parquet"])
def test_all_columns(folder: Path, kind: str) -> None:
    domain = read_manifest(write(folder, kind, FULL), "mine")
    assert [path.relative_to(folder).as_posix() for path in domain.train.images] == [
        "a.jpg",
        "c.jpg",
    ]
    assert domain.query.images == [folder / "inner" / "a.jpg"]
    assert domain.gallery.images == [folder / name for name in ("né, 王.jpg", "b.jpg", "d.jpg")]
    # Zoë, amy, bob, 王: by the numbers of their letters; door, hall, yard.
    np.testing.assert_array_equal(domain.train.identities, [1, 1])
    np.testing.assert_array_equal(domain.query.identities, [4])
    np.testing.assert_array_equal(domain.gallery.identities, [4, 2, 3])
    np.testing.assert_array_equal(domain.train.cameras, [3, 2])
    np.testing.assert_array_equal(domain.query.cameras, [1])
    np.testing.assert_array_equal(domain.gallery.cameras, [3, 2, 1])
    assert domain.train.times is not None
    assert domain.gallery.times is not None
    np.testing.assert_array_equal(domain.train.times, [0.5, 1e6])
    np.testing.assert_array_equal(domain.gallery.times, [2, -3, 0])
    assert {crops.domain for crops in (domain.train, domain.query, domain.gallery)} == {"mine"}


def test_two_columns_are_enough(folder: Path) -> None:
    columns = {"path": IMAGES[:3], "identity": ["x", "y", "x"]}
    domain = read_layout("manifest", write(folder, "csv", columns), "mine")
    np.testing.assert_array_equal(domain.train.identities, [1, 2, 1])
    # No two crops are of one camera.
    np.testing.assert_array_equal(domain.train.cameras, [1, 2, 3])
    assert domain.train.times is None
    assert not len(domain.query)
    assert not len(domain.gallery)


def test_absolute_paths_lead_anywhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.png").touch()
    paths = [str(tmp_path / "elsewhere.png"), "../elsewhere.png"]
    file = write(folder, "csv", {"path": paths[:1], "identity": ["x"]})
    assert read_manifest(file, "x").train.images == [tmp_path / "elsewhere.png"]
    file = write(folder, "csv", {"path": paths[1:], "identity": ["x"]})
    assert read_manifest(file, "x").train.images == [tmp_path / "elsewhere.png"]


def test_paths_are_from_the_manifest_wherever_one_stands(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "csv", {"path": ["a.jpg"], "identity": ["x"]})
    monkeypatch.chdir(folder.parent)
    (image,) = read_manifest(Path("mine/manifest.csv"), "x").train.images
    assert image == folder / "a.jpg"


@pytest.mark.parametrize(
    ("identities", "expected"),
    [
        (["0007", "12", "7"], [7, 12, 7]),
        ([7, 12, 7], [7, 12, 7]),
        (["7", "12", "7b"], [2, 1, 3]),
        (["9" * 18, "1", "2"], [10**18 - 1, 1, 2]),
        (["9" * 30, "1", "2"], [3, 1, 2]),
        ([" ann", "ann ", "ben"], [1, 1, 2]),
        (["Zoë", "Zoe\u0308", "ann"], [1, 1, 2]),
    ],
)
def test_whole_numbers_are_kept_and_names_are_numbered(
    folder: Path, identities: list[str | int], expected: list[int]
) -> None:
    columns = {"path": IMAGES[:3], "identity": identities, "camera": identities}
    for kind in ("csv", "parquet"):
        train = read_manifest(write(folder, kind, columns), "x").train
        np.testing.assert_array_equal(train.identities, expected)
        np.testing.assert_array_equal(train.cameras, expected)


def test_words_of_a_dictionary_are_words(folder: Path) -> None:
    words = pa.array(["x", "y", "x"]).dictionary_encode()
    pq.write_table(pa.table({"path": IMAGES[:3], "identity": words}), folder / "manifest.parquet")
    train = read_manifest(folder / "manifest.parquet", "x").train
    np.testing.assert_array_equal(train.identities, [1, 2, 1])


def test_nobody_is_in_the_gallery_alone(folder: Path) -> None:
    columns = {
        "path": IMAGES[:3],
        "identity": [5, 5, 0],
        "split": ["query", "gallery", "gallery"],
    }
    domain = read_manifest(write(folder, "csv", columns), "x")
    np.testing.assert_array_equal(domain.gallery.identities, [5, 0])
    columns["split"] = ["gallery", "gallery", "query"]
    with pytest.raises(ValueError, match="identity 0 in row 3, which is nobody"):
        read_manifest(write(folder, "csv", columns), "x")
    with pytest.raises(ValueError, match="identity -1 in row 3: people count from 1"):
        read_manifest(write(folder, "csv", columns | {"identity": [5, 5, -1]}), "x")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"identity": None}, r"no column identity among path, split: a manifest is a \.csv"),
        ({"path": None}, r"no column path among identity, split"),
        ({"camid": ["1"] * 3}, r"a column 'camid' too many; columns are path, identity, camera"),
        ({"Split": ["train"] * 3}, r"a column 'Split' too many"),
        ({"split": ["train", "test", "train"]}, r"'test' as split in row 2: write train, query"),
        ({"split": ["train", "", "train"]}, r"no split in row 2"),
        ({"split": ["train", "query", "query"]}, r"rows of only one of query and gallery"),
        ({"split": ["train", "gallery", "train"]}, r"rows of only one of query and gallery"),
        ({"identity": ["x", "y", ""]}, r"no identity in row 3: fill it in"),
        ({"identity": ["  ", "y", "x"]}, r"no identity in row 1: fill it in"),
        ({"camera": ["1", "", "2"]}, r"no camera in row 2: fill it in"),
        ({"domain": ["x", "", "x"]}, r"no domain in row 2: fill it in"),
        ({"domain": ["x", "y", "x"]}, r"several domains, x and y among them.*write a manifest for"),
        ({"path": ["a.jpg", "", "b.jpg"]}, r"no path in row 2: fill it in"),
        ({"path": ["a.jpg", "b.jpg", "inner/../a.jpg"]}, r"in row 3, and in row 1 as well"),
        ({"time": ["1", "nan", "2"]}, r"'nan' as time in row 2: write seconds"),
        ({"time": ["1", "2", "-inf"]}, r"'-inf' as time in row 3: write seconds"),
        ({"time": ["noon", "2", "3"]}, r"'noon' as time in row 1: write seconds"),
        ({"time": ["1", "", "3"]}, r"'' as time in row 2: write seconds"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_mistake_is_named_with_its_row(
    folder: Path, changes: dict[str, list[str] | None], said: str, kind: str
) -> None:
    columns: dict[str, list[str] | None] = {
        "path": IMAGES[:3],
        "identity": ["x", "y", "x"],
        "split": ["train"] * 3,
    }
    columns = columns | changes
    file = write(folder, kind, {name: its for name, its in columns.items() if its is not None})
    with pytest.raises(ValueError, match=said) as caught:
        read_manifest(file, "x")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"identity": ["x", None, "y"]}, r"no identity in row 2"),
        ({"path": ["a.jpg", None, "b.jpg"]}, r"no path in row 2"),
        ({"identity": [1.0, 2.0, 1.0]}, r"1\.0 as identity in row 1: write text or whole"),
        ({"identity": [float("nan")] * 3}, r"no identity in row 1"),
        ({"time": [1.0, float("nan"), 2.0]}, r"nan as time in row 2"),
        ({"time": [1.0, None, 2.0]}, r"None as time in row 2"),
        ({"time": [datetime(2026, 1, 1)] * 3}, r"has timestamp\[us\] in the column time"),
        ({"identity": [b"x"] * 3}, r"has binary in the column identity: write text or numbers"),
        ({"camera": [["x"]] * 3}, r"has list<.*> in the column camera"),
        ({"path": [1, 2, 3]}, r"no path in row 1"),
    ],
)
def test_what_only_parquet_can_hold_is_named(
    folder: Path, changes: dict[str, list[object]], said: str
) -> None:
    columns = {"path": IMAGES[:3], "identity": ["x", "y", "x"]} | changes
    with pytest.raises(ValueError, match=said):
        read_manifest(write(folder, "parquet", columns), "x")


@pytest.mark.parametrize("path", ["z.jpg", "inner", "/nowhere/a.jpg", "a\0.jpg"])
def test_a_missing_image_is_named_with_its_row(folder: Path, path: str) -> None:
    columns = {"path": ["a.jpg", path], "identity": ["x", "y"]}
    file = write(folder, "parquet", columns)
    with pytest.raises(FileNotFoundError, match="row 2 of"):
        read_manifest(file, "x")


@pytest.mark.parametrize(
    ("kind", "written", "said"),
    [
        ("csv", b"", "is not readable as csv: Empty CSV file"),
        ("csv", b"path,identity\n", "has no rows"),
        ("csv", b"path,identity\na.jpg\n", "is not readable as csv: .*Expected 2 columns, got 1"),
        ("csv", b"path,identity\na.jpg,\xff\n", "is not readable as csv: .*invalid UTF8"),
        ("csv", b"path,\xff\na.jpg,x\n", "is not readable as csv"),
        ("csv", b"path,identity,path\na.jpg,x,b.jpg\n", "a column 'path' too many"),
        ("csv", b"path;identity\na.jpg;x\n", "has no column path among path;identity"),
        ("csv", b"\0\1\2", "is not readable as csv"),
        ("parquet", b"", "is not readable as parquet"),
        ("parquet", b"PAR1 and no more", "is not readable as parquet"),
        ("tsv", b"path\tidentity\n", r"ends in \.tsv, and a manifest is a \.csv or \.parquet"),
    ],
)
def test_what_is_no_table_is_named(folder: Path, kind: str, written: bytes, said: str) -> None:
    file = folder / f"manifest.{kind}"
    file.write_bytes(written)
    with pytest.raises(ValueError, match=said) as caught:
        read_manifest(file, "x")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_parquet_is_named(folder: Path) -> None:
    file = write(folder, "parquet", FULL)
    whole = file.read_bytes()
    for cut in range(0, len(whole), 97):
        file.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="is not readable as parquet"):
            read_manifest(file, "x")


def test_too_many_rows_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayreid.data.layouts.manifest.MAX_ROWS", 5)
    for kind in ("csv", "parquet"):
        with pytest.raises(ValueError, match="has more than 5 rows"):
            read_manifest(write(folder, kind, FULL), "x")
        fewer = {name: its[:5] for name, its in FULL.items()}
        assert len(read_manifest(write(folder, kind, fewer), "x").gallery) == 2


def test_roots_that_are_none_are_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder, where a manifest was expected.*\.parquet"):
        read_manifest(folder, "x")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        read_manifest(folder / "nowhere.csv", "x")


def test_the_withdrawn_set_is_refused_wherever_its_crops_lie(folder: Path, tmp_path: Path) -> None:
    crops = tmp_path / "DukeMTMC-reID" / "bounding_box_train"
    crops.mkdir(parents=True)
    (crops / "0001_c1_f0000001.jpg").touch()
    columns = {"path": ["a.jpg", str(crops / "0001_c1_f0000001.jpg")], "identity": ["x", "y"]}
    with pytest.raises(ValueError, match="consent"):
        read_manifest(write(folder, "csv", columns), "x")
    columns = {"path": [str(folder / "a.jpg")], "identity": ["x"]}
    assert len(read_manifest(write(folder, "csv", columns), "x").train) == 1
    with pytest.raises(ValueError, match="consent"):
        read_manifest(write(crops.parent, "csv", columns), "x")


TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=6)
NAMES = TEXT.filter(lambda text: text.strip() != "")
ROWS = st.lists(
    st.tuples(NAMES, NAMES, st.floats(-1e9, 1e9), st.sampled_from(["train", "query", "gallery"])),
    min_size=2, max_size=6,
)  # fmt: skip


@given(rows=ROWS)
@settings(max_examples=60, deadline=None)
def test_csv_and_parquet_tell_the_same(
    rows: list[tuple[str, str, float, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("mine")
    for name in IMAGES:
        (folder / name).touch()
    identities, cameras, times, splits = (list(column) for column in zip(*rows, strict=True))
    identities[:2], splits[:2] = ["a person"] * 2, ["query", "gallery"]
    columns = {
        "path": IMAGES[: len(rows)],
        "identity": identities,
        "camera": cameras,
        "time": times,
        "split": splits,
    }
    one, other = (read_manifest(write(folder, kind, columns), "x") for kind in ("csv", "parquet"))
    assert same(one, other)
    assert len(one.train) + len(one.query) + len(one.gallery) == len(rows)
    assert one.query.identities[0] == one.gallery.identities[0]
