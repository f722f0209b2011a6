"""A served model under damaged images and hostile requests, for minutes: counts and memory."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from rayreid.benchmark.data import machine
from rayreid.benchmark.faults import bench
from rayreid.benchmark.fuzzing import bombs, mutated
from rayreid.benchmark.load import Load, closed_loop, elsewhere, post
from rayreid.benchmark.processes import serving
from rayreid.benchmark.requests import form
from rayreid.benchmark.soak import slope
from rayreid.report import table
from rayreid.run import commit
from rayreid.settings import FailureError

PORTION, CLIENTS = 4_000, 6
"""Images that are tried a time, by how many clients at once."""

Tell = Callable[[str], None]


def image_requests(first: int, count: int) -> list[bytes]:
    """Return requests that embed a damaged image each."""
    return [post("/v1/embed", *form([data], {})) for data in islice(mutated(first), count)]


def portions(port: int, seconds: float) -> Iterator[tuple[Load, dict[str, int]]]:
    """Try portions of damaged images until time is up; yield what came, and the memory after."""
    begun, first = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        load = elsewhere(once, port, first, PORTION)
        first += PORTION
        yield load, {one.name.split(".")[0]: one.resident for one in serving()}


def once(port: int, first: int, count: int) -> Load:
    """Try each of some damaged images once, and the bombs."""
    asked = image_requests(first, count)
    if first == 0:
        asked += [post("/v1/embed", *form([bomb], {})) for bomb in bombs().values()]
    return closed_loop(port, asked, CLIENTS, 3600.0, len(asked))


def by_schema(url: str, seconds: int, folder: Path) -> dict[str, object]:
    """Let schemathesis try what the served OpenAPI allows, and what it does not; return its counts.

    What counts is that no answer is a server's error (503 is a full house, and allowed) and that
    all of them are as documented. Raises `FileNotFoundError` where schemathesis is not installed.
    """
    program = Path(sys.executable).with_name("schemathesis")
    if not program.exists():
        raise FileNotFoundError("schemathesis is not installed; run: pip install schemathesis")
    report = folder / "report.json"
    command = [
        str(program), "run", f"{url}/openapi.json", "--checks", "not_a_server_error",
        "--max-time", str(seconds), "--phases", "examples,coverage,fuzzing,stateful",
        "--continue-on-failure", "--seed", "1", "--no-color", "--report", "ndjson",
        "--report-ndjson-path", str(report), "--suppress-health-check", "all", "--warnings", "off",
    ]  # fmt: skip
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    return {"exit": answer.returncode, "statuses": _statuses(report), "told": answer.stdout[-4000:]}


def _statuses(report: Path) -> dict[str, int]:
    """Return how many answers had which status."""
    counts: dict[str, int] = {}

    def count(node: object) -> None:
        if isinstance(node, dict):
            if "status_code" in node and isinstance(node["status_code"], int):
                key = str(node["status_code"])
                counts[key] = counts.get(key, 0) + 1
            for value in node.values():
                count(value)
        elif isinstance(node, list):
            for value in node:
                count(value)

    for line in report.read_text().splitlines():
        count(json.loads(line))
    return dict(sorted(counts.items()))


def fuzz(to: Path, tell: Tell, *, seconds: float = 120.0, port: int = 8768) -> str:
    """Fuzz images, and then the interface, half of the time each; return a page.

    Raises `FailureError` where a process of the service died. The page also goes to ``to``.
    """
    counts: dict[str, int] = {}
    moments, held = [], []
    with bench(port) as on, tempfile.TemporaryDirectory() as folder:
        elsewhere(once, port, 10**6, 500)  # to warm up
        pids = {one.pid for one in serving()}
        begun = time.monotonic()
        for load, memory in portions(port, seconds / 2):
            for status, count in load.counts().items():
                counts[status] = counts.get(status, 0) + count
            moments.append(time.monotonic() - begun)
            held.append(sum(memory.values()))
            tell(f"{sum(counts.values())} images: {counts}, {held[-1] / 2**20:.0f} MiB")
        found = by_schema(f"http://127.0.0.1:{on.port}", round(seconds / 2), Path(folder))
        tell(str(found["told"]))
        after = sum(one.resident for one in serving())
        if {one.pid for one in serving()} != pids:
            raise FailureError("a process of the service died; Ray's logs tell which, and why")
    growth, half = (
        slope(np.array(moments), np.array(held)) if len(held) > 2 else (float("nan"),) * 2
    )
    statuses = found["statuses"]
    assert isinstance(statuses, dict)
    names = sorted({*counts, *statuses})
    rows = [(name, counts.get(name, 0), statuses.get(name, 0)) for name in names]
    rows.append(("all", sum(counts.values()), sum(statuses.values())))
    page = (
        f"# Fuzzing\n\n`rayreid benchmark fuzz`: {machine()}; commit {commit()}. Damaged images "
        f"(bits flipped, numbers overwritten, cut, spliced, appended to, noise; and bombs) for "
        f"{seconds / 2:g} s, each in a request of its own; then schemathesis on the served "
        f"/openapi.json. No process of the service died. Memory of all of them grew by "
        f"{growth * 60 / 2**20:+.1f} +- {half * 60 / 2**20:.1f} MiB a minute under images, and was "
        f"{after / 2**20:.0f} MiB in the end.\n\n"
        + table(("status", "damaged images", "schemathesis"), rows)
    )
    to.mkdir(parents=True, exist_ok=True)
    (to / "fuzz.md").write_text(page + "\n")
    return page
