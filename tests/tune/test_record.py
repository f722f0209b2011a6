"""The record of reports: nothing of it is lost, and the table is always whole."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rayreid.tune.objectives import COST, METRIC
from rayreid.tune.record import COLUMNS, REPORTS, TABLE, Record


def row(trial: int, epoch: int, **more: object) -> dict[str, object]:
    return {"trial": trial, "epoch": epoch, "trial_id": "x", METRIC: 0.1 * epoch, **more}


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    record = Record(tmp_path, {})
    assert record.add(row(1, 1))
    assert record.add(row(1, 2))
    assert record.add(row(2, 1, **{"setting/a": "x"}))
    assert not record.add(row(1, 2, **{METRIC: 0.9})), "a trial tried again repeats its last"
    again = Record(tmp_path, {})
    assert again.trials == record.trials
    assert again.last(1) == row(1, 2)
    assert again.last(3) is None


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_cut_short_is_left_out_and_the_next_is_whole(tmp_path: Path, cut: int) -> None:
    record = Record(tmp_path, {})
    record.add(row(1, 1))
    record.add(row(1, 2))
    path = tmp_path / REPORTS
    path.write_bytes(path.read_bytes()[:-cut])
    again = Record(tmp_path, {})
    assert again.trials == {1: {1: row(1, 1)}}
    again.add(row(1, 2))
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 2]


def test_the_table_has_its_columns_whatever_trials_have(tmp_path: Path) -> None:
    record = Record(tmp_path, {"selection": "sources"})
    record.write({}, now=True)
    assert not (tmp_path / TABLE).exists(), "no rows, no table"
    record.add(row(2, 0))
    record.add(row(1, 2, **{"mAP/snow": 0.5, "setting/a": 3, "setting/b": "x", "loss/pair": 1.0}))
    record.add(row(1, 1, **{"mAP/snow": 0.4, "setting/a": 0.5, "setting/b": 2}))
    record.write({1: "ended", 2: "crashed"}, now=True)
    table = pq.read_table(tmp_path / TABLE)
    assert table.schema.names[: len(COLUMNS)] == list(COLUMNS)
    assert table.schema.metadata == {b"selection": b"sources"}
    assert table["trial"].to_pylist() == [1, 1, 2]
    assert table["epoch"].to_pylist() == [1, 2, 0]
    assert table["state"].to_pylist() == ["ended", "ended", "crashed"]
    assert table["setting/a"].to_pylist() == [0.5, 3.0, None]
    assert table["setting/b"].to_pylist() == ["2", "x", None]
    assert table[COST].to_pylist() == [None] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [REPORTS, TABLE]


def test_the_table_is_not_written_more_often_than_it_is_worth(tmp_path: Path) -> None:
    record = Record(tmp_path, {})
    record.add(row(1, 1))
    record.write({1: "running"})
    record.add(row(1, 2))
    record.write({1: "running"})
    assert pq.read_table(tmp_path / TABLE).num_rows == 1
    record.write({1: "running"}, now=True)
    assert pq.read_table(tmp_path / TABLE).num_rows == 2
