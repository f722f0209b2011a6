from types import SimpleNamespace

import pytest
import torch

from rayreid.benchmark import timing
from rayreid.benchmark.timing import medians, threads


def clock(monkeypatch: pytest.MonkeyPatch, *readings: float) -> None:
    told = iter(readings)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: next(told)))


def test_medians_leave_the_first_round_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two readings of the clock for each part and round: 100 s to warm up, then 1, 5 and 2 s.
    clock(monkeypatch, 0, 100, 100, 101, 101, 106, 106, 108)
    assert medians({"part": lambda: None}, 3) == {"part": 2}


def test_a_part_is_called_until_its_turn_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 0, 2, 10, 20)
    calls = []
    assert medians({"part": lambda: calls.append(1)}, 1, turn=10.0) == {"part": 2}
    assert len(calls) == 1 + 5


def test_threads_are_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
