"""A process and all that it started: their memory, their time, and which is which."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

_PAGE, _TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """A process as it was when it was looked at."""

    pid: int
    name: str
    """Its command line; what Ray runs calls itself ``ray::CLASS``."""
    resident: int
    """Bytes in memory, those shared with others included."""
    seconds: float
    """Seconds of a core that it has taken."""
    files: int
    """Files, sockets and pipes that it has open."""


def family(pid: int | None = None) -> list[Process]:
    """Return the descendants of a process, by default of this one, without itself."""
    parents, seconds = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                told = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if told[0] != "Z":
                parents[int(folder.name)] = int(told[1])
                seconds[int(folder.name)] = (int(told[11]) + int(told[12])) / _TICKS
    found = {pid or os.getpid()}
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    found.discard(pid or os.getpid())
    return [one for p in sorted(found) if (one := _look(p, seconds[p])) is not None]


def replicas(deployment: str) -> list[Process]:
    """Return the replicas of one of our deployments, among the descendants of this process."""
    pattern = re.compile(rf"^ray::ServeReplica:\w+:{re.escape(deployment)}\b")
    return [one for one in family() if pattern.match(one.name)]


def proxy() -> Process:
    """Return Serve's HTTP proxy, among the descendants of this process."""
    return next(one for one in family() if one.name.startswith("ray::ProxyActor"))


def serving() -> list[Process]:
    """Return what serves: replicas, proxy and controller."""
    names = ("ray::ServeReplica", "ray::ProxyActor", "ray::ServeController")
    return [one for one in family() if one.name.startswith(names)]


def _look(pid: int, seconds: float) -> Process | None:
    folder = Path("/proc") / str(pid)
    try:
        name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        resident = int((folder / "statm").read_text().split()[1]) * _PAGE
        files = sum(1 for _ in (folder / "fd").iterdir())
    except OSError:
        return None
    return Process(pid, name.strip(), resident, seconds, files)
