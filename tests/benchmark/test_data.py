"""The structure of the benchmark's table and figures; bytes are varied as in training."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayreid.benchmark import data as benchmark
from rayreid.benchmark.data import VIEWS, WAYS, varied_bytes
from rayreid.data.views import ViewSettings, as_images, varied


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


def test_medians_leave_the_first_round_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two readings of the clock for each part and round: 100 s to warm up, then 1, 5 and 2 s.
    clock = iter([0.0, 100.0, 100.0, 101.0, 101.0, 106.0, 106.0, 108.0])
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert benchmark.medians({"part": lambda: None}, 3) == {"part": 2}


@given(
    seed=st.integers(0, 999),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    shift=st.sampled_from([0.0, 0.1, 0.5]),
    shift_width=st.sampled_from([None, 0.0, 0.3]),
    erasing=st.sampled_from([0.0, 0.5, 1.0]),
    area=st.sampled_from([0.02, 0.2, 1.0]),
)
def test_bytes_are_varied_as_training_varies_floats(
    seed: int, flip: float, shift: float, shift_width: float | None, erasing: float, area: float
) -> None:
    settings = ViewSettings(
        flip=flip, shift=shift, shift_width=shift_width, erasing=erasing, erasing_area=area
    )
    pixels = torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (5, 24, 10, 3), dtype=np.uint8)
    )
    made = as_images(varied_bytes(pixels, settings, torch.Generator().manual_seed(seed)))
    expected = varied(as_images(pixels), settings, torch.Generator().manual_seed(seed))
    # Mid grey is half a level from any byte; no byte is mid grey otherwise.
    erased = expected == 0.5
    assert torch.equal(made[~erased], expected[~erased])
    assert (made[erased] == 128 / 255).all()
    assert erased.any() == (erasing == 1) or erasing == 0.5


def test_the_views_compared_are_those_of_the_peers() -> None:
    assert round(VIEWS.shift * 256) == round((VIEWS.shift_width or 0) * 128) == 10
    assert VIEWS.flip == VIEWS.erasing == 0.5
