"""States: two are kept, and one that was cut short is passed over."""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from rayreid.experiment import compose
from rayreid.run import Run, learn_here, open_sources
from rayreid.states import newest_whole, refuse_without_room, rows_of, told_if_full, why_broken
from tests.miniature import MINIATURE


@pytest.fixture
def broken_off(tmp_path: Path) -> Run:
    """A run of three epochs, killed after the second was logged."""
    run = Run(tmp_path / "run", compose("baseline", MINIATURE))

    def kill(row: Mapping[str, float]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_here(run, open_sources(run.experiment), kill)
    return run


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("what", ["state.safetensors", "trained/weights.safetensors", "state.json"])
def test_the_state_before_one_that_was_cut_short_is_used_and_said(
    broken_off: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    states = sorted((broken_off.folder / "states").iterdir())
    assert [s.name for s in states] == ["epoch_00001", "epoch_00002"]
    assert not any(map(why_broken, states))
    (states[1] / what).write_bytes((states[1] / what).read_bytes()[: 9 if ".json" in what else -1])
    assert why_broken(states[1])
    told: list[object] = []
    with caplog.at_level(logging.WARNING):
        learn_here(broken_off, open_sources(broken_off.experiment), lambda row: told.append(row))
    assert "epoch_00002 is broken" in caplog.text
    assert "the state before it is used" in caplog.text
    assert [row["epoch"] for row in told] == [2, 3]  # type: ignore[index]
    straight = Run(tmp_path / "straight", broken_off.experiment)
    learn_here(straight, open_sources(straight.experiment), lambda _: None)
    assert broken_off.ranking()["fingerprint"] == straight.ranking()["fingerprint"]
    assert [s.name for s in sorted((broken_off.folder / "states").iterdir())] == [
        "epoch_00002", "epoch_00003",
    ]  # fmt: skip
    assert not why_broken(broken_off.folder / "states" / "epoch_00002")


def test_a_state_without_its_position_was_never_one(broken_off: Run) -> None:
    states = broken_off.folder / "states"
    (states / "epoch_00002" / "state.json").unlink()
    assert newest_whole(states) == states / "epoch_00001"
    (states / "epoch_00001" / "state.json").unlink()
    assert newest_whole(states) is None


def test_nothing_is_made_up_where_no_state_is_whole(broken_off: Run) -> None:
    states = broken_off.folder / "states"
    for state in states.iterdir():
        cut(state / "state.safetensors")
    with pytest.raises(ValueError, match="holds no whole state: remove the run's folder"):
        learn_here(broken_off, open_sources(broken_off.experiment), lambda _: None)


def test_a_state_brings_the_log_up_to_it(broken_off: Run) -> None:
    rows = broken_off.metrics()
    state = broken_off.folder / "states" / "epoch_00002"
    assert rows_of(state) == rows
    assert [row["workers"] for row in rows] == [0, 0]
    # Killed between keeping the state and logging its epoch: the row is not lost.
    log = broken_off.folder / "metrics.jsonl"
    log.write_text(log.read_text().splitlines()[0] + "\n")
    learn_here(broken_off, open_sources(broken_off.experiment), lambda _: None)
    assert broken_off.metrics()[:2] == rows
    assert len(log.read_text().splitlines()) == 3, "a row that was there is told again"


def test_only_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    full = Path("/dev/full")
    with pytest.raises(OSError, match="no room left on the disk of .*; make room"):  # noqa: RUF043, SIM117
        with told_if_full(tmp_path):
            full.write_text("anything")
    with pytest.raises(OSError, match="Is a directory"), told_if_full(tmp_path):
        tmp_path.write_text("anything")


def test_room_for_a_state_is_looked_for_before_it_is_copied(
    broken_off: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = broken_off.folder / "states" / "epoch_00002"
    size = sum(path.stat().st_size for path in state.rglob("*") if path.is_file())
    for free, refused in ((size, False), (size - 1, True)):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr("rayreid.states.shutil.disk_usage", lambda _, usage=usage: usage)
        refuse_without_room("s3://bucket/run", state)
        if refused:
            with pytest.raises(OSError, match="no room left on the disk of"):
                refuse_without_room(str(tmp_path), state)
        else:
            refuse_without_room(str(tmp_path), state)
