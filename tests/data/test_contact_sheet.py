"""The contact sheet: who is in which cell, what is empty, what is broken, and how large it gets."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rayreid.batch import Domain
from rayreid.data import contact_sheet
from rayreid.data.contact_sheet import block, check_size, sheet
from rayreid.data.loading import LoadingSettings
from rayreid.data.scanning import scan
from rayreid.data.sources import SyntheticSettings, open_source
from rayreid.data.statistics import people_of
from tests.data.folders import crop_file, crops, domain, market

EMPTY, BROKEN = (238, 238, 238), (210, 40, 40)


def drawn(
    found: Domain, people: int = 9, cameras: int = 9, decode: int | None = None
) -> np.ndarray:
    scanned = scan(found, decode=decode)
    picture = block(scanned, people_of(scanned), people=people, cameras=cameras, height=64)
    return np.asarray(picture)


def cells(picture: np.ndarray, rows: int, columns: int) -> list[list[np.ndarray]]:
    """Return the cells of 64 x 32, with gaps of 2, right of the rows' names."""
    left = round(contact_sheet.font_of(11).getlength("train ")) + 2
    shown = picture[-rows * 66 :, left:]
    return [[shown[r * 66 :][:64, c * 34 :][:, :32] for c in range(columns)] for r in range(rows)]


def flat(colour: int) -> np.ndarray:
    return np.full((64, 32, 3), colour, np.uint8)


def test_rows_are_people_columns_cameras_and_nobody_is_grey() -> None:
    pixels = np.stack([flat(colour) for colour in (10, 20, 30, 40)])
    found = domain(crops(pixels[:2], [4, 3], [2, 1]), gallery=crops(pixels[2:], [3, 0], [2, 1]))
    picture = drawn(found)
    assert picture.shape[0] == 33 + 3 * 66, "distractors have no row"
    shown = cells(picture, 3, 2)
    expected = [[20, None], [None, 10], [None, 30]]
    for row, told in zip(shown, expected, strict=True):
        for cell, colour in zip(row, told, strict=True):
            assert (cell == (EMPTY if colour is None else colour)).all()


def test_crops_keep_their_proportions() -> None:
    wide = np.full((1, 20, 40, 3), 50, np.uint8)
    ((cell,),) = cells(drawn(domain(crops(wide, [1], [1]))), 1, 1)
    assert (cell[24:40] == 50).all()
    assert (cell[:24] == 255).all()
    assert (cell[40:] == 255).all()


@pytest.mark.parametrize("decode", [None, 0])
def test_broken_crops_are_passed_over_and_told(tmp_path: Path, decode: int | None) -> None:
    root = market(tmp_path / "mini")
    file = crop_file(root, "train", 1, 1)
    file.write_bytes(file.read_bytes()[:-600])
    source = open_source(f"market1501={root}", LoadingSettings(), SyntheticSettings())
    scanned = scan(source, decode=decode)
    picture = np.asarray(block(scanned, people_of(scanned), people=9, cameras=9, height=64))
    shown = cells(picture, 5, 2)
    assert (shown[0][0] == BROKEN).all(-1).any(), "crossed out"
    assert not (shown[0][1] == BROKEN).all(-1).any()
    assert (shown[2][1] == EMPTY).all()
    assert [scanned.name(crop) for crop in scanned.broken] == [str(file)], "told, also if new"
    sound = file.with_name(file.name.replace("_00.jpg", "_01.jpg"))
    Image.new("RGB", (32, 64), (9, 9, 9)).save(sound)
    source = open_source(f"market1501={root}", LoadingSettings(), SyntheticSettings())
    assert np.abs(cells(drawn(source, decode=decode), 5, 2)[0][0].astype(int) - 9).max() < 4


def test_the_busiest_cameras_and_people_from_all_parts_are_chosen() -> None:
    n = 60
    pixels = np.zeros((n, 16, 16, 3), np.uint8)
    cameras = [7] * 30 + [3] * 20 + [5] * 10
    found = domain(crops(pixels[:40], range(40), cameras[:40]),
                   gallery=crops(pixels[40:], range(40, 60), cameras[40:]))  # fmt: skip
    scanned = scan(found)
    assert contact_sheet._busiest(scanned, 2) == [3, 7]
    assert contact_sheet._busiest(scanned, 9) == [3, 5, 7]
    assert contact_sheet._chosen(scanned, [3, 7], 3).tolist() == [0, 24, 49]
    assert drawn(found, people=3, cameras=2).shape[0] < 300


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>" * 9, "日本", "Привет", "שלום", "a$b$", ""]
)
def test_any_name_fits_its_block(name: str) -> None:
    part = crops(np.zeros((1, 16, 16, 3), np.uint8), [1], [1])
    picture = drawn(Domain(name, part, crops([], [], []), crops([], [], [])))
    assert picture.shape[1] < 200


def test_letters_that_the_first_font_lacks_are_looked_for_elsewhere() -> None:
    default = contact_sheet._default()
    assert contact_sheet._reader_of("Привет") == default
    assert "LastResort" not in contact_sheet._reader_of("日本").name


def test_blocks_go_on_in_a_new_line() -> None:
    blocks = [Image.new("RGB", (1500, 50), (i, i, i)) for i in (1, 2, 3)]
    picture = np.asarray(sheet(blocks))
    assert picture.shape[1] <= contact_sheet.WIDEST + 50
    assert [int(colour) for colour in np.unique(picture)] == [1, 2, 3, 255]
    rows = [np.flatnonzero((picture == i).any((1, 2))).min() for i in (1, 2, 3)]
    assert rows[0] == rows[1] < rows[2]


def test_a_sheet_has_a_limit() -> None:
    check_size(20, people=8, cameras=8, height=128)
    with pytest.raises(ValueError, match=r"may have .* pixels, more than 40,000,000: show fewer"):
        check_size(3, people=100, cameras=20, height=512)
