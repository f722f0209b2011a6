"""The benchmark of galleries: its tables have what was measured, by the stores themselves."""

import json
from pathlib import Path

import numpy as np
import pytest

from rayreid.benchmark import gallery_searches
from rayreid.benchmark.galleries import galleries
from rayreid.benchmark.gallery_searches import METHODS, searches
from rayreid.benchmark.gallery_stores import PEOPLE, SHAPES, Sqlite, rows


def test_searches_are_of_all_methods_and_of_as_much_memory_as_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gallery_searches, "ROUNDS", 1)
    found = searches(600, 260)
    assert [row[0] for row in found] == list(METHODS)
    assert [row[1] for row in found] == ["600 x 512", "600 x 512", "260 x 12,288"]
    # Of a cosine one vector a sample; of the others two, of which GMN's has two numbers more.
    held = [600 * 512, 600 * (512 + 514), 2 * 260 * 12288]
    assert [float(row[2]) for row in found] == [round(4 * n / 2**20) for n in held]
    assert all(float(time) >= 0 for row in found for time in row[3:])
    assert not list(tmp_path.iterdir())


def test_what_a_store_is_measured_with_is_kept(tmp_path: Path) -> None:
    kept = Sqlite(tmp_path, SHAPES["vectors"])
    kept.add(0, rows("vectors", 50, 3))
    assert kept.numbers() == set(range(50))
    assert kept.filtered() == [7] == [n for n in range(50) if n % PEOPLE == 7]
    given = rows("vectors", 50, 3)
    unit = given / np.linalg.norm(given, axis=1, keepdims=True)
    np.testing.assert_allclose(kept.load(), unit, atol=1e-6)
    kept.purge(7)
    assert kept.numbers() == set(range(50)) - {7}
    kept.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_page_has_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    sizes = {"vectors": 300, "maps": 100, "kills": 1, "searched": 1000}
    page = galleries(tmp_path / "out", told.append, stores=("SQLite",), **sizes)
    assert page + "\n" == (tmp_path / "out/galleries.md").read_text()
    found = json.loads((tmp_path / "out/galleries.json").read_text())
    column = found["stores"]["SQLite"]
    for what, figure in column.items():
        assert what in page
        assert figure in page
    assert column["vectors: pieces left after a purge"] == "0 of 32"
    lost, _, said = column["lost of what was acknowledged, after kill -9"].partition(" of ")
    assert (lost, int(said.replace(",", "")) > 0) == ("0", True)
    assert len(told) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
