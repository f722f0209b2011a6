"""The structure of the benchmark's table and figures; bytes are varied as in training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rayreid.benchmark import data as benchmark
from rayreid.benchmark.data import VIEWS, WAYS


@pytest.fixture(scope="module")
def page_and_figures(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict, list[str]]:
    to, told = tmp_path_factory.mktemp("results") / "data", []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    page = benchmark.data(
        to, told.append, sizes=((32, 16), (300, 120)), people=2, kept=20, batch=3, rounds=2
    )
    assert torch.get_num_threads() == 2, "the threads of whoever calls come back"
    torch.set_num_threads(threads)
    return page, json.loads((to / "data.json").read_text()), told


def test_the_table_has_a_row_for_every_way(page_and_figures: tuple[str, dict, list[str]]) -> None:
    page, _, told = page_and_figures
    header, _, *rows = (line for line in page.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in header.split("|")[1:-1]] == [
        "JPEGs of", "32x16", "300x120", "floor",
    ]  # fmt: skip
    assert [row.split("|")[1].strip() for row in rows] == [way.name for way in WAYS]
    assert "(1.0x)" in rows[0]
    assert [row.split("|")[4].strip() for row in rows] == ["", "3.5x", "", "100x", "10x", ""]
    assert "one thread" in page
    assert f"torch {torch.__version__.split('+')[0]}" in page
    assert [line.split(":")[0] for line in told] == ["32x16", "300x120"]


def test_the_figures_of_a_way_are_those_of_its_parts(
    page_and_figures: tuple[str, dict, list[str]],
) -> None:
    _, found, _ = page_and_figures
    assert found["threads"] == 1
    assert found["batch"] == [3, 256, 128]
    assert "cores of" in found["machine"]
    for place, seconds in enumerate(found["seconds_an_image"].values()):
        assert all(value > 0 for value in seconds.values())
        for way in WAYS:
            figures = found["ways"][way.name]
            expected = sum(seconds[part] for part in way.parts)
            assert figures["images_a_second"][place] == pytest.approx(1 / expected)
            ratio = figures["times_the_peers"][place]
            assert ratio == pytest.approx(seconds["peers"] / expected)


def test_the_map_holds_the_files_over_and_over(tmp_path: Path) -> None:
    files = benchmark._stored(tmp_path / "files", 32, 16, people=1)
    assert len(files) == 8
    pixels = benchmark._mapped(tmp_path / "pixels", files, 19)
    assert pixels.shape == (19, 256, 128, 3)
    assert isinstance(pixels, np.memmap)
    assert not pixels.flags.writeable
    for i in range(19):
        np.testing.assert_array_equal(pixels[i], pixels[i % 8])
    assert len({image.tobytes() for image in pixels}) == 8


def test_the_views_compared_are_those_of_the_peers() -> None:
    assert round(VIEWS.shift * 256) == round((VIEWS.shift_width or 0) * 128) == 10
    assert VIEWS.flip == VIEWS.erasing == 0.5
