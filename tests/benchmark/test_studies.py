"""Figures of studies against sums by hand, on folders whose numbers a formula gives."""

from pathlib import Path
from typing import Any

import pytest

from rayreid.benchmark.studies import CORES, stopping_table, summary, time_table, write_page
from rayreid.run import write_json
from rayreid.study_report.record import read_study
from tests.study_report import folders


def rows_of(tmp_path: Path, name: str, *, stop: bool) -> dict[str, Any]:
    trials = [{**row, "seconds_saving": 0.1} for row in folders.rows(6, stop=stop)]
    begun = min(row["started"] for row in trials) - 2.0
    wall = max(row["reported"] for row in trials) - begun + 1.0
    folder = folders.write(
        tmp_path / name, trials, sessions=[begun], outcome={"wall_seconds": wall}
    )
    return summary(read_study(folder))


def test_a_studys_core_seconds_add_up(tmp_path: Path) -> None:
    found = rows_of(tmp_path, "asha", stop=True)
    assert found["epochs"] == 4 * 5 + 2 * 2
    assert found["ended"] == 4
    assert found["seconds_learning"] == pytest.approx(24 * 4.0)
    assert found["seconds_ranking"] == pytest.approx(24 * 0.5)
    assert found["seconds_setup"] == pytest.approx(6 * 2.5)
    parts = ("in_trials", "before", "between", "one_left", "after")
    total = sum(found[f"seconds_{part}"] for part in parts)
    assert total == pytest.approx(CORES * found["seconds"])
    # Trial 2 begins first, two seconds after the driver, and trial 1 a second later.
    assert found["seconds_before"] == pytest.approx(2 + 3)
    assert found["seconds_after"] == pytest.approx(CORES * 1.0)


def test_until_the_best_are_all_epochs_reported_before_it_ended(tmp_path: Path) -> None:
    found = rows_of(tmp_path, "none", stop=False)
    rows = folders.rows(6, stop=False)
    until = max(row["reported"] for row in rows if row["trial"] == found["best"])
    assert found["epochs to the best"] == sum(row["reported"] <= until for row in rows)
    assert found["score"] == max(row["mean_mAP"] for row in rows if row["epoch"] == 5)


def test_the_tables_say_what_was_saved(tmp_path: Path) -> None:
    none, asha = (
        {**rows_of(tmp_path, name, stop=name == "asha"), "trials": 6, "seconds_ray": 3.0}
        for name in ("none", "asha")
    )
    rows = [
        {"seed": 0, "stopping": "none", **none},
        {"seed": 0, "stopping": "asha", **asha, "score": none["score"] - 0.01, "rule": [1, 3]},
        {"seed": 1, "stopping": "none", **none, "sessions": 2},
        {"seed": 1, "stopping": "asha", **asha, "rule": [1, 3]},
        {"seed": 2, "stopping": "asha", **asha, "rule": [1, 3]},
    ]
    text = stopping_table(rows)
    assert "ASHA's best is -0.010 beside that of no stopping, with 80% of its epochs." in text
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 3
    assert "(grace 1, reduction 3)" in text
    assert "| none, 1 " not in time_table(rows), "it was interrupted"
    busy = asha["seconds_learning"] + asha["seconds_ranking"]
    share = 1 - busy / (CORES * (asha["seconds"] + 3))
    line = next(line for line in time_table(rows).splitlines() if line.startswith("| asha, 0"))
    assert f"{share:.0%}" in line
    many = {"seed": 0, "stopping": "asha", **asha, "trials": 48}
    write_json(tmp_path / "studies.json", {"stopping": rows, "long": many})
    assert text in (page := write_page(tmp_path))
    assert "| asha, 0 | 48 " in page.replace("  ", "")
