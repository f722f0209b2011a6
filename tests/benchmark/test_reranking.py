"""The structure of the benchmark's table and figures, and the people that it re-ranks."""

import json
from pathlib import Path

import numpy as np
import pytest

from rayreid.benchmark.reranking import people, reranking


def test_the_figures_and_the_table_are_of_one_run(tmp_path: Path) -> None:
    told: list[str] = []
    page = reranking(tmp_path / "to", told.append, few=120, crops=400, width=16, rounds=2)
    found = json.loads((tmp_path / "to" / "reranking.json").read_text())
    assert len(told) == 2
    few, alone = found["few"], found["all"]
    assert (few["crops"], few["queries"], alone["crops"]) == (120, 20, 400)
    assert few["ratio"] == pytest.approx(few["seconds"]["published"] / few["seconds"]["here"])
    assert few["largest_difference"] < 1e-6
    assert 0 < few["mAP"]["cosine"] < 1
    assert alone["seconds"] > 0
    assert 0 <= alone["bytes"] < 1e9
    header, _, *rows = (line for line in page.splitlines() if line.startswith("|"))
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in (header, *rows)]
    assert cells[0] == ["re-ranking", "time", "measured", "to reach"]
    assert cells[2][0::2] == ["here, 120 crops", f"{few['ratio']:.1f}x"]
    assert cells[2][3] == "15x"
    assert cells[6][2] == f"{alone['bytes'] / 1e9:.2f} GB"


def test_people_are_unit_vectors_that_a_seed_decides() -> None:
    vectors, identities, cameras = people(200, 8, seed=3)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert len(np.unique(identities)) <= 8
    assert set(cameras) <= set(range(6))
    np.testing.assert_array_equal(people(200, 8, seed=3)[0], vectors)
