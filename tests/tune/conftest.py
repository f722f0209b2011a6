"""A target that nobody may open."""

from pathlib import Path
from typing import NoReturn

import pytest

from rayreid.data import sources
from rayreid.data.layouts import FOLDERS
from rayreid.data.layouts.grammar import Layout


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a target whose reader raises, whatever is asked of it."""

    def read(root: Path, name: str, options: object) -> NoReturn:  # noqa: ARG001
        raise PermissionError(f"the target {root} was opened")

    # Known in this process alone: where a trial's process opens it, the layout itself is unknown.
    monkeypatch.setitem(FOLDERS, "forbidden", Layout(read, "labels that nobody may see"))
    monkeypatch.setattr(sources, "LAYOUTS", (*sources.LAYOUTS, "forbidden"))
    return "forbidden=/nowhere/target"
