"""Tables to the character, and ranked lists by the colours of their pixels."""

import numpy as np
import pytest

from rayreid.batch import Crops
from rayreid.data.loading import LoadingSettings
from rayreid.report import QUERY, RIGHT, WRONG, Colour, ranked_lists, table

WHITE = (255, 255, 255)
LOADING = LoadingSettings(height=64, width=32)


def test_a_table_is_aligned_and_rounds_its_floats() -> None:
    rows = [("gmn", 0.12345, 7), ("baseline", 12.0, "none")]
    assert table(("method", "mAP", "epochs"), rows) == (
        "| method   |    mAP | epochs |\n"
        "| -------- | -----: | -----: |\n"
        "| gmn      |  0.123 |      7 |\n"
        "| baseline | 12.000 |   none |"
    )


def test_a_table_without_rows_is_its_header() -> None:
    assert table(("method", "mAP"), []) == "| method | mAP |\n| ------ | --: |"


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        table(("method", "mAP"), [("gmn", 0.5, 1)])


def crop_colour(part: int, number: int) -> Colour:
    return 100 + 50 * part, 20 * number, 7


def crops(part: int, people: list[int], cameras: list[int]) -> Crops:
    images = [np.full((64, 32, 3), crop_colour(part, i), np.uint8) for i in range(len(people))]
    return Crops("drawn", np.stack(images), np.array(people), np.array(cameras))


def stretches(line: np.ndarray) -> list[tuple[Colour, int]]:
    """Return the colours along a line of pixels, each with how many pixels it goes on for."""
    found: list[tuple[Colour, int]] = []
    for pixel in map(tuple, line.tolist()):
        if found and found[-1][0] == pixel:
            found[-1] = (pixel, found[-1][1] + 1)
        else:
            found.append((pixel, 1))
    return found


def cells(sheet: np.ndarray, rows: int, columns: int) -> list[list[list[Colour]]]:
    """Return the colours across the middle of each cell, without the white around the frame."""
    assert sheet.shape[0] % rows == sheet.shape[1] % columns == 0
    height, width = sheet.shape[0] // rows, sheet.shape[1] // columns
    found = []
    for row in range(rows):
        line = sheet[row * height + height // 2]
        parts = [stretches(line[c * width : (c + 1) * width]) for c in range(columns)]
        found.append([[colour for colour, _ in part if colour != WHITE] for part in parts])
    return found


def framed(frame: Colour, part: int, number: int) -> list[Colour]:
    return [frame, crop_colour(part, number), frame]


QUERIES = crops(0, [1, 2], [1, 1])
#                  own view of 1, of 2; then both again through another camera; a distractor
GALLERY = crops(1, [1, 2, 1, 2, 0], [1, 1, 2, 2, 3])
SCORES = np.array([[9.0, 1.0, 2.0, 3.0, 0.5], [4.0, 9.0, 3.0, 2.0, 1.0]], np.float32)


def test_frames_tell_the_query_its_matches_and_the_rest() -> None:
    sheet = np.asarray(ranked_lists(SCORES, QUERIES, GALLERY, LOADING, matches=4))
    # Crop 0 is the first query's own view and crop 1 the second's: best of all, and left out.
    assert cells(sheet, 2, 5) == [
        [
            framed(QUERY, 0, 0),
            framed(WRONG, 1, 3),
            framed(RIGHT, 1, 2),
            framed(WRONG, 1, 1),
            framed(WRONG, 1, 4),
        ],
        [
            framed(QUERY, 0, 1),
            framed(WRONG, 1, 0),
            framed(WRONG, 1, 2),
            framed(RIGHT, 1, 3),
            framed(WRONG, 1, 4),
        ],
    ]
    assert len({QUERY, WRONG, RIGHT}) == 3


def test_cells_without_a_match_stay_white() -> None:
    sheet = np.asarray(ranked_lists(SCORES, QUERIES, GALLERY, LOADING, matches=6))
    for row in cells(sheet, 2, 7):
        assert all(row[:5])
        assert row[5:] == [[], []]


def test_queries_are_spread_from_the_first_to_the_last() -> None:
    queries = crops(0, [1, 1, 2, 2, 1], [1] * 5)
    scores = np.tile(SCORES[0], (5, 1))
    sheet = np.asarray(ranked_lists(scores, queries, GALLERY, LOADING, queries=3, matches=1))
    assert [row[0] for row in cells(sheet, 3, 2)] == [framed(QUERY, 0, q) for q in (0, 2, 4)]
    # More rows are asked for than there are queries: each is shown once.
    sheet = np.asarray(ranked_lists(scores, queries, GALLERY, LOADING, queries=9, matches=1))
    assert [row[0] for row in cells(sheet, 5, 2)] == [framed(QUERY, 0, q) for q in range(5)]


@pytest.mark.parametrize(("height", "zoom"), [(16, 8), (64, 2), (128, 1), (200, 1)])
def test_small_crops_are_enlarged_by_a_whole_factor(height: int, zoom: int) -> None:
    loading = LoadingSettings(height=height, width=16)
    one = Crops("drawn", np.full((1, height, 16, 3), 77, np.uint8), np.array([1]), np.array([1]))
    other = Crops("drawn", one.images, one.identities, np.array([2]))
    sheet = np.asarray(ranked_lists(np.ones((1, 1), np.float32), one, other, loading, matches=1))
    assert ((77, 77, 77), 16 * zoom) in stretches(sheet[len(sheet) // 2])
    middle = sheet.shape[1] // 4
    assert ((77, 77, 77), height * zoom) in stretches(sheet[:, middle])
