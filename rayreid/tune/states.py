"""A trial's states on disk: all that it needs to go on from an epoch after its process died."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from rayreid.learner import Learner
from rayreid.tune.record import Row

log = logging.getLogger(__name__)

REPORT = "report.json"


class States:
    """The folder of a trial's states, a subfolder each with the state of every fold's learner.

    Two are kept: where the newest is broken, the one before serves. Process after process may
    write here, even one that is not gone yet: each writes a draft of its own, and renames it.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, learners: Sequence[Learner], row: Row) -> None:
        """Write the state after an epoch, and what is reported of it; drop the older ones."""
        draft = self.folder / f".draft-{uuid4().hex}"
        for number, learner in enumerate(learners):
            learner.save(draft / f"fold_{number}")
        report = {"row": dict(row), "sizes": _sizes(draft)}
        (draft / REPORT).write_text(json.dumps(report) + "\n")
        state = self.folder / f"epoch_{row['epoch']:05d}"
        # One of the same epoch is of another process of this trial, or was broken.
        shutil.rmtree(state, ignore_errors=True)
        draft.rename(state)
        for older in sorted(self.folder.glob("epoch_*"))[:-2]:
            shutil.rmtree(older, ignore_errors=True)

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest whole state and its report; say aloud which ones are broken."""
        for draft in self.folder.glob(".draft-*"):  # of a process that died
            shutil.rmtree(draft, ignore_errors=True)
        for state in sorted(self.folder.glob("epoch_*"), reverse=True):
            row = _report_of(state)
            if row is not None:
                return state, row
            log.warning("the state %s is broken; the one before it is used", state)
        return None

    def clear(self) -> None:
        """Drop all states."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _sizes(state: Path) -> dict[str, int]:
    files = [path for path in state.rglob("*") if path.is_file() and path.name != REPORT]
    return {path.relative_to(state).as_posix(): path.stat().st_size for path in files}


def _report_of(state: Path) -> dict[str, Any] | None:
    """Return what a whole state reported, None of one that is cut short."""
    try:
        report = json.loads((state / REPORT).read_text())
        whole = report["sizes"] == _sizes(state)
        row: dict[str, Any] = report["row"]
    except (ValueError, KeyError, FileNotFoundError):
        return None
    return row if whole else None
