"""A job as a cluster tells of it, and what its metadata say beside Ray's own."""

from collections.abc import Mapping
from dataclasses import dataclass

NAME, RESULTS, SUBMITTED_BY = "rayreid.name", "rayreid.results", "rayreid.version"
"""Metadata: the name of what it makes, where that goes, and the version that submitted it."""


@dataclass(frozen=True)
class Job:
    """A submitted job: its state, in Ray's words, and times in seconds since 1970."""

    name: str
    state: str
    metadata: Mapping[str, str]
    began: float | None = None
    ended: float | None = None
    message: str = ""
    exit_code: int | None = None

    @property
    def goes_on(self) -> bool:
        """Return whether it waits to run, or runs."""
        return self.state in ("pending", "running")

    @property
    def results(self) -> str | None:
        """Return where its results are, if it leaves any."""
        return self.metadata.get(RESULTS) or None
