"""The states that a run can go on from: the newest and the one before, whole or not used."""

import errno
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rayreid.checkpoint import WEIGHTS, save_trained
from rayreid.data.storage import is_remote
from rayreid.learner import POSITION, STATE, Learner

log = logging.getLogger(__name__)

KEPT = 2
"""States that are kept: should the newest be cut short, the one before is whole."""
METRICS = "metrics.jsonl"
"""A line an epoch: in a run's folder, and up to its epoch in each state."""

Row = Mapping[str, object]
"""The metrics of an epoch."""


def save_state(learner: Learner, folder: Path, rows: Sequence[Row]) -> None:
    """Write the state to resume from, with the method as it would be served, and the log so far.

    The position is written last: a folder without it was never a state.
    """
    weights = learner.averaged.state_dict()
    save_trained(folder / "trained", learner.experiment, learner.census, weights)
    (folder / METRICS).write_text("".join(json.dumps(dict(row)) + "\n" for row in rows))
    learner.save(folder)


def keep_state(learner: Learner, states: Path, rows: Sequence[Row]) -> Path:
    """Save the newest state, whole or not at all, then drop all but it and the one before."""
    folder, draft = states / f"epoch_{learner.epoch:05d}", states / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    save_state(learner, draft, rows)
    shutil.rmtree(folder, ignore_errors=True)  # one that was cut short
    draft.rename(folder)
    for state in sorted(states.glob("epoch_*"))[:-KEPT]:
        shutil.rmtree(state)
    return folder


def newest_whole(states: Path) -> Path | None:
    """Return the newest state that is whole, None where there is none yet.

    One that was cut short is passed over, with a warning. Raises `ValueError` where all were.
    """
    there = [s for s in sorted(states.glob("epoch_*"), reverse=True) if (s / POSITION).is_file()]
    for state in there:
        broken = why_broken(state)
        if not broken:
            return state
        log.warning("%s is broken (%s); the state before it is used", state, broken)
    if there:
        raise ValueError(
            f"{states} holds no whole state: remove the run's folder, or give another --name, "
            "to begin anew"
        )
    return None


def why_broken(state: Path) -> str:
    """Return what is wrong with a state, "" where nothing is: the files end where they say."""
    try:
        json.loads((state / POSITION).read_text())
        for file in (state / STATE, state / "trained" / WEIGHTS):
            # The header names the last byte of each tensor, and the file must end there.
            with safe_open(file, "pt"):
                pass
    except (OSError, ValueError, SafetensorError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def rows_of(state: Path) -> list[Row]:
    """Return the log up to a state."""
    path = state / METRICS
    return [json.loads(row) for row in path.read_text().splitlines()] if path.is_file() else []


FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a system says of a disk without room."""


def refuse_without_room(address: str, state: Path) -> None:
    """Raise `OSError` where a folder's disk has no room for a copy of a state; a store has."""
    if is_remote(address):
        return
    size = sum(path.stat().st_size for path in state.rglob("*") if path.is_file())
    if shutil.disk_usage(address).free < size:
        raise _full(address)


@contextmanager
def told_if_full(folder: Path) -> Iterator[None]:
    """Raise an `OSError` that says what to do where the body found no room on the disk."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # Arrow and safetensors pass on the text alone.
        full = getattr(error, "errno", None) in FULL or "No space left on device" in str(error)
        if not full:
            raise
        raise _full(folder) from error


def _full(folder: object) -> OSError:
    return OSError(
        f"there is no room left on the disk of {folder}: nothing that was told is lost; make "
        "room, and the same command goes on"
    )
