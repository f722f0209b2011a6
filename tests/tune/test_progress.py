"""Lines of progress: the best so far, and the time left."""

import time

import pytest

from rayreid.tune.progress import Progress


def test_a_line_says_the_best_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    told: list[str] = []
    progress = Progress(12, 2, 5, "mean_mAP", told.append)
    progress.known(1, 0.25)
    progress.starts(3, {"a": 0.123456, "b": "x"}, 0, 1)
    assert told[-1] == "trial 3/12 starts: a=0.123, b=x"
    now += 120
    progress.ended(3, 0.2)
    assert told[-1] == (
        "trial 3/12 ended: held-out mAP 0.200; best so far 0.250 (trial 1); about 18 min left"
    ), "nine trials like the one of this session"
    progress.stopped(4, 2, 0.1)
    progress.ended(5, 0.5)
    assert "best so far 0.500 (trial 5); about 280 s left" not in told[-1]
    assert told[-1].endswith("best so far 0.500 (trial 5); about 5 min left")
    progress.crashed(6, "ValueError: no")
    assert "crashed: ValueError: no; best so far" in told[-1]
    progress.died(7, 3)
    assert "lost its process after 3/5 epochs" in told[-1]
    progress.starts(7, {"a": 1}, 3, 2)
    assert told[-1] == "trial 7/12 starts again (attempt 2), after epoch 3: a=1"


def test_the_last_trial_leaves_no_time() -> None:
    told: list[str] = []
    progress = Progress(1, 0, 5, "worst_mAP", told.append)
    progress.ended(1, 0.5)
    assert told == ["trial 1/1 ended: lowest held-out mAP 0.500; best so far 0.500 (trial 1)"]
