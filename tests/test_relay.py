"""What workers tell reaches the driver once, in order, and is waited for."""

import logging
from pathlib import Path

import pytest

from rayreid.experiment import compose
from rayreid.run import Run
from tests.miniature import MINIATURE


@pytest.mark.usefixtures("ray_session")
def test_rows_are_logged_once_and_sentences_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    from rayreid.relay import relayed

    run = Run(tmp_path, compose("baseline", MINIATURE))
    run.log({"epoch": 1, "loss/a": 0.5})
    heard: list[object] = []
    with relayed(run, lambda row: heard.append(row["epoch"]), 1) as relay:
        ray.get(relay.tell.remote({"epoch": 1, "loss/a": 0.5}, {"epoch": 2, "loss/a": 0.25}))
        ray.get(relay.tell.remote("something broke"))
        # An epoch that was learnt again after a loss, by fewer workers.
        ray.get(relay.tell.remote({"epoch": 2, "loss/a": 0.26}))
    assert heard == [2, 2]
    assert run.metrics() == [{"epoch": 1, "loss/a": 0.5}, {"epoch": 2, "loss/a": 0.26}]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert "something broke" in caplog.text


@pytest.mark.usefixtures("ray_session")
def test_a_log_that_cannot_be_written_is_an_error_in_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    from rayreid.relay import relayed

    run = Run(tmp_path, compose("baseline", MINIATURE))
    log = tmp_path / "metrics.jsonl"
    log.symlink_to("/dev/full")
    with (
        pytest.raises(OSError, match="no room left on the disk"),
        relayed(run, lambda _: pytest.fail("told what is not kept"), 1) as relay,
    ):
        ray.get(relay.tell.remote({"epoch": 1}))
    log.unlink()
    heard: list[object] = []
    log.symlink_to("/dev/full")
    with relayed(run, lambda row: heard.append(row["epoch"]), 1) as relay:
        ray.get(relay.tell.remote({"epoch": 1}))
        while "told again" not in caplog.text:
            pass
        log.unlink()
    assert heard == [1]
    assert run.metrics() == [{"epoch": 1}]


@pytest.mark.usefixtures("ray_session")
def test_a_run_that_waits_for_cores_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    from rayreid.relay import ROOM_SECONDS, _Waiting

    now = [0.0]
    waiting = _Waiting(99, clock=lambda: now[0])
    with caplog.at_level(logging.WARNING):
        waiting.look()
        assert not caplog.text
        for _ in range(3):
            now[0] += ROOM_SECONDS
            waiting.look()
    assert caplog.text.count("the workers need 99: the run waits for a node") == 1
    enough = _Waiting(1, clock=lambda: now[0])
    now[0] += ROOM_SECONDS
    enough.look()
    assert not enough.said
