"""The verb `match` against the whole service: pictures larger, and bounds smaller, than crops."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from rayreid.checkpoint import Trained
from rayreid.cli import cli
from rayreid.guard.connections import DoorSettings
from tests.serve.pictures import expected, picture
from tests.serve.whole import whole

ROWS, COLUMNS = 5, 4
BOUNDS = [{}, {"all_pixels": 10_000}, {"body_bytes": 2_000}, {"images": 3}, {"pairs": 2}]


def match(port: int, *words: str | Path) -> Result:
    command = ["match", *map(str, words), f"--url=http://127.0.0.1:{port}", "--json"]
    return CliRunner().invoke(cli, command)


def told(result: Result) -> list[dict[str, object]]:
    assert result.exception is None, result.exception
    return [json.loads(line) for line in result.output.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of two folders and a list of their pairs."""
    lines = []
    for name, count, first in (("a", ROWS, 0), ("b", COLUMNS, ROWS)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.png").write_bytes(picture(first + number))
    lines = [f"a/{i}.png,b/{j}.png\n" for i in range(ROWS) for j in range(COLUMNS)]
    (tmp_path / "pairs.csv").write_text("".join(lines))
    return tmp_path


@pytest.mark.parametrize("limits", BOUNDS, ids=str)
@pytest.mark.parametrize("way", ["folders", "list"])
def test_smaller_bounds_change_neither_scores_nor_order(
    run: Path, trained: Trained, folder: Path, limits: dict[str, int], way: str
) -> None:
    a, b, listed = folder / "a", folder / "b", folder / "pairs.csv"
    with whole(run, limits=limits) as port:
        rows = told(match(port, *((a, b) if way == "folders" else ("--pairs", listed))))
    pairs = [(i, ROWS + j) for i in range(ROWS) for j in range(COLUMNS)]
    named = [(str(a / f"{i}.png"), str(b / f"{j - ROWS}.png")) for i, j in pairs]
    assert [(row["a"], row["b"]) for row in rows] == named
    scores = expected(trained, [picture(seed) for seed in range(ROWS + COLUMNS)], pairs)
    np.testing.assert_allclose([row["score"] for row in rows], scores, atol=1e-5)


def test_a_door_of_smaller_bounds_is_passed_too(run: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(8):
        noise = random.integers(0, 256, (400, 300, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    with whole(run, door=DoorSettings(body_bytes=2**20)) as port:
        assert len(told(match(port, tmp_path, tmp_path))) == 64


@pytest.mark.parametrize("way", ["folders", "list"])
def test_whole_pictures_of_a_camera_pass(run: Path, tmp_path: Path, way: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (1280, 720), "gray").save(file, "JPEG")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(36):
            (tmp_path / name / f"{number:02}.jpg").write_bytes(file.getvalue())
    lines = [f"a/{i:02}.jpg,b/{i:02}.jpg\n" for i in range(36)]
    (tmp_path / "pairs.csv").write_text("".join(lines))
    chosen = ("--pairs", tmp_path / "pairs.csv") if way == "list" else (
        tmp_path / "a", tmp_path / "b")  # fmt: skip
    with whole(run) as port:
        assert len(told(match(port, *chosen))) == (36 if way == "list" else 36 * 36)


def test_files_of_more_bytes_than_a_body_pass_in_parts(run: Path, tmp_path: Path) -> None:
    for number in range(6):
        # What follows a picture in its file is sent along and means nothing.
        (tmp_path / f"{number}.png").write_bytes(picture(number) + bytes(7 * 2**20))
    with whole(run) as port:
        assert len(told(match(port, tmp_path, tmp_path))) == 36


def test_an_image_that_is_never_taken_is_told_by_name(run: Path, folder: Path) -> None:
    large = folder / "b" / "3.png"
    Image.new("L", (4000, 3000)).save(large)
    with whole(run) as port:
        error = match(port, folder / "a", folder / "b").exception
    assert isinstance(error, ValueError)
    assert str(large) in str(error)
    assert str(error).endswith("images[1] has more than 8,847,360 pixels; scale it down")
