"""Pixels that trials get from Ray are mapped, not copied."""

from pathlib import Path

import numpy as np
import pytest

from rayreid.benchmark.sharing import memory_of_process
from rayreid.search_space import parse_space
from rayreid.tune import StudySettings
from rayreid.tune.trivial import open_trivial, run_with_data

MIB = 48


def growth(data: dict[str, np.ndarray]) -> dict[str, float]:
    """Read all the data and return what this process has grown by."""
    before = memory_of_process()
    total = sum(int(part.sum(dtype=np.int64)) for part in data.values())
    after = memory_of_process()
    return {**{name: float(after[name] - before[name]) for name in after}, "total": float(total)}


@pytest.mark.usefixtures("ray_session")
def test_what_a_trial_reads_is_not_its_own(tmp_path: Path) -> None:
    space = parse_space({"optimiser.lr": {"float": {"low": 0.0, "high": 1.0}}})
    settings = StudySettings(trials=2, parallel=1, stopping="none")
    search = open_trivial(tmp_path / "s", space, settings, 1, {"optimiser.lr": 0.5})
    pixels = np.ones(MIB * 2**20, np.uint8)
    run_with_data(search, growth, {"pixels": pixels})
    for trial in (1, 2):
        row = search.record.last(trial)
        assert row is not None
        assert row["total"] == pixels.sum()
        assert row["private"] < 8 * 2**20
    mapped = [(search.record.last(trial) or {})["proportional"] for trial in (1, 2)]
    assert max(mapped) > MIB / 4 * 2**20, "it was mapped: shared with the store's own process"


def test_a_processs_own_pages_are_told_apart() -> None:
    before = memory_of_process()
    own = np.ones(64 * 2**20, np.uint8)
    after = memory_of_process()
    assert after["private"] - before["private"] > 48 * 2**20
    assert own.sum() == 64 * 2**20
