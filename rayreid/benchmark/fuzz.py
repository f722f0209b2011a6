"""A served model under damaged images and hostile requests, for minutes: counts and memory."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from rayreid.benchmark.data import machine
from rayreid.benchmark.faults import Bench, bench
from rayreid.benchmark.fuzzing import bombs, mutated
from rayreid.benchmark.hostile import attackers
from rayreid.benchmark.load import Load, closed_loop, post
from rayreid.benchmark.processes import serving
from rayreid.benchmark.requests import form
from rayreid.benchmark.soak import SETTLED, named, slope
from rayreid.report import table
from rayreid.run import commit
from rayreid.settings import FailureError

PORTION, CLIENTS = 500, 6
"""Images that are tried a time, by how many clients at once."""

Tell = Callable[[str], None]


def image_requests(first: int, count: int) -> list[bytes]:
    """Return requests that embed a damaged image each."""
    return [post("/v1/embed", *form([data], {})) for data in islice(mutated(first), count)]


def portions(port: int, seconds: float) -> Iterator[tuple[Load, dict[str, int]]]:
    """Try portions of damaged images until time is up; yield what came, and the memory after."""
    begun, first = time.monotonic(), 0
    with attackers() as processes:
        processes.submit(once, port, 10**6, PORTION).result()  # to warm up
        while time.monotonic() - begun < seconds:
            load = processes.submit(once, port, first, PORTION).result()
            first += PORTION
            yield load, {named(one): one.resident for one in serving()}


def once(port: int, first: int, count: int) -> Load:
    """Try each of some damaged images once, and the bombs."""
    asked = image_requests(first, count)
    if first == 0:
        asked += [post("/v1/embed", *form([bomb], {})) for bomb in bombs().values()]
    return closed_loop(port, asked, CLIENTS, 3600.0, len(asked))


def by_schema(url: str, seconds: int, folder: Path) -> tuple[dict[str, int], str]:
    """Let schemathesis try what the served OpenAPI allows, and what it does not.

    Return how many answers had which status, and the end of what it told.

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
    if not report.exists():
        raise FailureError(f"schemathesis did not run: {(answer.stderr or answer.stdout)[-500:]}")
    if "Schema Error" in answer.stdout:
        raise FailureError(f"schemathesis could not try all of it: {answer.stdout[-1500:]}")
    return _statuses(report), answer.stdout[-4000:]


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


@dataclass(frozen=True)
class Fuzzed:
    """What came of damaged images, and of requests by the schema."""

    images: dict[str, int]
    """Answers to images, by status."""
    schema: dict[str, int]
    """Answers to schemathesis, by status."""
    growth: dict[str, tuple[float, float]]
    """Bytes an image that each process takes more once settled, and half of the 95 % interval; none
    where too few samples were taken."""
    resident: dict[str, int]
    """Bytes of each process in the end."""


def fuzzed(on: Bench, tell: Tell, seconds: float, folder: Path) -> Fuzzed:
    """Fuzz images, and then the interface, half of the time each.

    Raises `FailureError` where a process of the service died. Reports go to ``folder``.
    """
    counts: dict[str, int] = {}
    tried: list[int] = []
    held: dict[str, list[int]] = {}
    pids = {one.pid for one in serving()}
    for load, memory in portions(on.port, seconds / 2):
        for status, count in load.counts().items():
            counts[status] = counts.get(status, 0) + count
        tried.append(sum(counts.values()))
        for name, resident in memory.items():
            held.setdefault(name, []).append(resident)
        tell(f"{tried[-1]} images: {counts}, {sum(memory.values()) / 2**20:.0f} MiB")
    statuses, told = by_schema(f"http://127.0.0.1:{on.port}", round(seconds / 2), folder)
    tell(told)
    if {one.pid for one in serving()} != pids:
        raise FailureError("a process of the service died; Ray's logs tell which, and why")
    late = slice(int(len(tried) * SETTLED), None)
    growth = {
        name: slope(np.array(tried[late], np.float64), np.array(values[late], np.float64))
        for name, values in held.items()
        if len(tried[late]) >= 4
    }
    return Fuzzed(counts, statuses, growth, {named(one): one.resident for one in serving()})


def fuzz(to: Path, tell: Tell, *, seconds: float = 120.0, port: int = 8768) -> str:
    """Fuzz a small model's service for so long; return a page, which also goes to ``to``.

    Raises as `fuzzed`.
    """
    with bench(port) as on, tempfile.TemporaryDirectory() as folder:
        found = fuzzed(on, tell, seconds, Path(folder))
    told = page(found, seconds)
    to.mkdir(parents=True, exist_ok=True)
    (to / "fuzz.md").write_text(told + "\n")
    return told


def page(found: Fuzzed, seconds: float) -> str:
    """Return the counts and the memory as tables in Markdown."""
    names = sorted({*found.images, *found.schema})
    rows = [(name, found.images.get(name, 0), found.schema.get(name, 0)) for name in names]
    rows.append(("all", sum(found.images.values()), sum(found.schema.values())))
    memory = [
        (
            name.rpartition(" ")[0],
            f"{found.resident[name] / 2**20:.0f}",
            f"{growth:+z.0f}",
            f"{half:.0f}",
        )
        for name, (growth, half) in found.growth.items()
    ]
    return (
        f"# Fuzzing\n\n`rayreid benchmark fuzz`: {machine()}; commit {commit()}. Damaged images "
        f"(bits flipped, numbers overwritten, cut, spliced, appended to, noise; and bombs) for "
        f"{seconds / 2:g} s, each in a request of its own; then schemathesis on the served "
        f"/openapi.json, galleries included. No process of the service died.\n\n"
        + table(("status", "damaged images", "schemathesis"), rows)
        + "\n\nMemory in the end, and its growth under images after the first "
        + f"{SETTLED:.0%} of them.\n\n"
        + table(("process", "MiB", "growth, bytes an image", "+- (95 %)"), memory)
    )
