from pathlib import Path

import numpy as np
import pytest

from rayreid.benchmark import resident
from rayreid.benchmark.resident import in_own_process, peak_of


def filled(mebibytes: int) -> int | None:
    return peak_of(lambda: np.ones(mebibytes << 20, np.uint8).sum())


def test_the_peak_is_what_work_took_and_let_go() -> None:
    # The kernel counts resident pages in batches, a core each: a megabyte more than is asked for.
    found = in_own_process(filled, 301)
    if found is None:
        pytest.skip("this system does not tell")
    assert 300 <= found / 2**20 < 400


def test_where_it_is_untold_it_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resident, "CLEAR", tmp_path / "none" / "file")
    assert filled(1) is None
