"""A few trivial trials through the real machinery, and what is told of the driver."""

from pathlib import Path
from typing import Any

import pytest

from rayreid.benchmark.scale import draw, resident_mib, scale, scale_table


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_session")
def test_trivial_trials_go_the_way_of_real_ones(tmp_path: Path) -> None:
    kept: list[dict[str, Any]] = []
    found = scale(tmp_path / "s", 9, lambda _: None, kept.append)
    assert kept == [found], "what a run that is cut short would have left"
    assert sum(found["states"].values()) == 9
    assert found["states"].keys() <= {"ended", "stopped"}
    assert 9 <= found["reports"] <= 45
    (row,) = found["rows"]
    assert row["trials"] == 9
    assert row["journal_mib"] > 0
    assert row["reports_mib"] > 0
    assert 0 < row["suggest_ms"] < 1e3 * row["seconds_a_trial"]
    assert 0 < row["hear_ms"] < 1e3 * row["seconds_a_trial"]
    assert "9 trials that learn nothing" in scale_table(found)
    draw(found, tmp_path / "scale.svg")
    assert "<svg" in (tmp_path / "scale.svg").read_text()


def test_resident_memory_grows_with_what_is_touched() -> None:
    before = resident_mib()
    held = bytearray(b"x") * (64 * 2**20)
    assert resident_mib() - before > 48
    assert len(held) == 64 * 2**20
