"""What trials reported, a row a trial and epoch: kept as it comes, and as a table."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayreid.tune.objectives import COST, METRIC, WORST
from rayreid.tune.storage import mend

REPORTS, TABLE = "reports.jsonl", "trials.parquet"

Row = Mapping[str, Any]

COLUMNS: Mapping[str, pa.DataType] = {
    "trial": pa.int64(),
    "trial_id": pa.string(),
    "state": pa.string(),
    "epoch": pa.int64(),
    METRIC: pa.float64(),
    WORST: pa.float64(),
    COST: pa.float64(),
    "started": pa.float64(),
    "reported": pa.float64(),
    "seconds_setup": pa.float64(),
    "seconds_learning": pa.float64(),
    "seconds_ranking": pa.float64(),
    "seconds_saving": pa.float64(),
    "node": pa.string(),
    "attempt": pa.int64(),
}
"""Columns that every table has, before mAP/, loss/ and setting/.

``trial`` counts from 1, ``trial_id`` is Ray's. ``state`` is ended, stopped, crashed or running.
``started`` and ``reported`` are unix seconds of one epoch's work: building the folds is part of an
attempt's first, and ``seconds_setup`` is 0 in all others. ``seconds_learning``, ``_ranking`` and
``_saving`` are of that epoch, over all folds. ``node`` is Ray's id of it, ``attempt`` how often the
trial was begun. A trial that crashed before a report has a row of epoch 0."""


class Record:
    """The reports of a study: reports.jsonl, a line each, and trials.parquet, made of it.

    A line is written before anybody acts on a report, so that a driver that is killed loses none.
    """

    def __init__(self, folder: Path, metadata: Mapping[str, str]):
        self.folder, self.metadata = folder, metadata
        self.trials: dict[int, dict[int, Row]] = {}
        self._written = self._cost = 0.0
        path = folder / REPORTS
        mend(path)
        for line in path.read_text().splitlines() if path.is_file() else []:
            self._take(json.loads(line))

    def _take(self, row: Row) -> None:
        self.trials.setdefault(row["trial"], {}).setdefault(row["epoch"], row)

    def add(self, row: Row) -> bool:
        """Keep a row; return whether it is new: a trial tried again repeats its last one."""
        if row["epoch"] in self.trials.get(row["trial"], {}):
            return False
        with (self.folder / REPORTS).open("a") as lines:
            lines.write(json.dumps(dict(row)) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        self._take(row)
        return True

    def last(self, trial: int) -> Row | None:
        """Return a trial's newest report of an epoch."""
        epoch = max(self.trials.get(trial, {0: None}))
        return self.trials[trial][epoch] if epoch else None

    def write(self, states: Mapping[int, str], *, now: bool = False) -> None:
        """Write the table, whole or not at all; unless ``now``, only where it is worth the time."""
        began = time.monotonic()
        if not now and began - self._written < max(2.0, 20 * self._cost):
            return
        rows = [
            {**row, "state": states[trial]}
            for trial, by_epoch in sorted(self.trials.items())
            for _, row in sorted(by_epoch.items())
        ]
        if rows:
            draft = self.folder / f".{TABLE}"
            pq.write_table(_table(rows).replace_schema_metadata(self.metadata), draft)
            draft.replace(self.folder / TABLE)
        self._written = time.monotonic()
        self._cost = self._written - began


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    further = [
        name for group in ("mAP/", "loss/", "setting/") for name in names if name.startswith(group)
    ]
    columns = {
        name: pa.array([row.get(name) for row in rows], kind) for name, kind in COLUMNS.items()
    }
    columns |= {name: _column([row.get(name) for row in rows]) for name in further}
    return pa.table(columns)


def _column(values: list[Any]) -> pa.Array:
    """Return settings as a column; of several kinds as text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and kinds != {int, float}:
        return pa.array([None if value is None else str(value) for value in values])
    return pa.array(values)
