"""Which store keeps galleries: SQLite beside LanceDB, and what a search of it costs.

LanceDB is measured where it is installed (``pip install lancedb``); it is no dependency.
"""

import functools
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import numpy as np
import torch

from rayreid.batch import Batch
from rayreid.benchmark.data import machine
from rayreid.benchmark.gallery_stores import STORES, Kept, Sqlite
from rayreid.method import Method
from rayreid.report import table
from rayreid.run import commit
from rayreid.serve.galleries.search import search
from rayreid.serve.galleries.snapshot import Filters, Snapshot

SHAPES: Mapping[str, tuple[int, ...]] = {"vectors": (512,), "maps": (1, 64, 192)}
"""Embeddings of 2 KiB, and of 48 KiB."""
BATCH = 256
"""Samples of a batched enrolment."""


def galleries(
    to: Path,
    tell: Callable[[str], None],
    *,
    vectors: int = 100_000,
    maps: int = 5_000,
    kills: int = 5,
) -> str:
    """Measure the stores; return a page with the tables.

    The figures go to ``to/galleries.json``.
    """
    found: dict[str, object] = {"machine": machine(), "commit": commit(), "vectors": vectors,
                                "maps": maps, "kills": kills}  # fmt: skip
    columns: dict[str, dict[str, str]] = {}
    for name in STORES:
        if name == "LanceDB" and importlib.util.find_spec("lancedb") is None:
            tell("LanceDB is not installed; pip install lancedb measures it too")
            continue
        column: dict[str, str] = {}
        for kind, count in (("vectors", vectors), ("maps", maps)):
            with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                column |= _measured(name, Path(folder), kind, count)
            tell(f"{name}, {kind}: " + ", ".join(f"{k} {v}" for k, v in column.items()))
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            column |= _killed(name, Path(folder), kills)
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            column |= _synced(name, Path(folder))
        column |= _weight(name)
        columns[name] = column
        tell(f"{name}: " + ", ".join(f"{k} {v}" for k, v in column.items()))
    found["stores"] = columns
    rows = [
        (what, *(column.get(what, "") for column in columns.values()))
        for what in next(iter(columns.values()))
    ]
    searches = _searches(vectors, maps)
    found["searches"] = searches
    to.mkdir(parents=True, exist_ok=True)
    (to / "galleries.json").write_text(json.dumps(found, indent=1) + "\n")
    return (
        f"{machine()}; {torch.get_num_threads()} threads. {vectors:,} embeddings of 512 numbers "
        f"(2 KiB) and {maps:,} maps (48 KiB), in batches of {BATCH}.\n\n"
        + table(("stores", *columns), rows)
        + "\n\n"
        + table(("search of a snapshot", "samples", "milliseconds a query"), searches)
    )


def _searches(vectors: int, maps: int) -> list[tuple[str, str, str]]:
    """Time searches of a snapshot with the cosine, one query and sixteen at a time."""
    found = []
    for kind, count in (("vectors", vectors), ("maps", maps)):
        snapshot = Snapshot(torch.device("cpu"))
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            kept = Sqlite(Path(folder), SHAPES[kind])
            for start in range(0, count, BATCH):
                kept.add(start, _rows(kind, min(BATCH, count - start), start))
            snapshot.refresh(kept.store, "g")
            kept.close()
        for at_once in (1, 16):
            queries = [torch.from_numpy(_rows(kind, 1, n)) for n in range(at_once)]

            one = functools.partial(
                search, _Cosine(), snapshot, queries, Filters(),
                top_k=10, shortlist=200, fusion="mean",
            )  # fmt: skip
            one()
            taken = median(_seconds(one) for _ in range(7))
            label = f"{kind}, {at_once} at a time"
            found.append((label, f"{count:,}", f"{1000 * taken / at_once:.1f}"))
    return found


class _Cosine(Method):
    """Scores embeddings, and makes none."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return what is given."""
        return images

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Learn nothing."""
        raise NotImplementedError(batch)


def _rows(kind: str, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SHAPES[kind]), np.float32)


def _measured(name: str, folder: Path, kind: str, count: int) -> dict[str, str]:
    kept: Kept = STORES[name](folder, SHAPES[kind])
    single = []
    for number in range(50):
        row = _rows(kind, 1, number)
        single.append(_seconds(functools.partial(kept.add, count + number, row)))
    marked = _rows(kind, 1, 10**6)
    kept.add(count + 999, marked)
    seconds = 0.0
    for start in range(0, count, BATCH):
        rows = _rows(kind, min(BATCH, count - start), start)
        seconds += _seconds(functools.partial(kept.add, start, rows))
    size = _size(folder)
    load = _seconds(kept.load)
    filtered = median(_seconds(kept.filtered) for _ in range(5))
    pieces = [marked.tobytes()[at : at + 64] for at in range(0, 2048, 64)]
    kept.delete(count + 999)
    deleted = _left(folder, pieces)
    purge = _seconds(lambda: kept.purge(count + 998))
    left = _left(folder, pieces)
    kept.close()
    of = f"{kind}: "
    over = size / (count + 51) / (4 * np.prod(SHAPES[kind]))
    return {
        of + "single enrolments a second": f"{1 / median(single):,.0f}",
        of + "batched, samples a second": f"{count / seconds:,.0f}",
        of + "bytes on disk over those of the numbers": f"{over:.2f}",
        of + "all of it read, seconds": f"{load:.2f}",
        of + "one identity's ids, milliseconds": f"{1000 * filtered:.1f}",
        of + "pieces of 64 bytes left after deleting": f"{deleted} of {len(pieces)}",
        of + "pieces left after a purge": f"{left} of {len(pieces)}",
        of + "purge, seconds": f"{purge:.2f}",
    }


def _left(folder: Path, pieces: list[bytes]) -> int:
    left: set[bytes] = set()
    for path in folder.rglob("*"):
        if path.is_file():
            contents = path.read_bytes()
            left |= {piece for piece in pieces if piece in contents}
    return len(left)


def _child(name: str, folder: Path, *before: str) -> subprocess.Popen[str]:
    """Start a process that enrols one sample after the other, and says which when it is done."""
    code = (
        "import sys; from pathlib import Path; import numpy as np;"
        "from rayreid.benchmark.gallery_stores import STORES;"
        "kept = STORES[sys.argv[1]](Path(sys.argv[2]), (512,));"
        "print('ready', flush=True);"
        "[(kept.add(n, np.full((1, 512), n, np.float32)), print(n, flush=True))"
        " for n in range(int(sys.argv[3]), int(sys.argv[3]) + int(sys.argv[4]))]"
    )
    arguments = [*before, sys.executable, "-c", code, name, str(folder)]
    return subprocess.Popen([*arguments, "0", "2000"], stdout=subprocess.PIPE, text=True)


def _killed(name: str, folder: Path, kills: int) -> dict[str, str]:
    """Kill a writer at work, and count what it had said was enrolled and is not there."""
    lost = said = 0
    for turn in range(kills):
        place = folder / str(turn)
        place.mkdir()
        with _child(name, place) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.2 + 0.1 * turn)
            writer.send_signal(signal.SIGKILL)
            done = [int(line) for line in writer.stdout if line.endswith("\n")]
        kept = STORES[name](place, (512,))
        there = kept.numbers()
        kept.close()
        said += len(done)
        lost += len(set(done) - there)
    return {"lost of what was acknowledged, after kill -9": f"{lost} of {said:,}"}


def _synced(name: str, folder: Path) -> dict[str, str]:
    """Count how often a writer has the disk confirm, of twenty enrolments."""
    what = "fsync or fdatasync an enrolment (a power cut)"
    if shutil.which("strace") is None:
        return {what: "not measured: no strace"}
    log = folder / "log"
    place = folder / "store"
    place.mkdir()
    trace = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(log)]
    code_child = _child(name, place, *trace)
    with code_child as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        before = log.read_text().count("sync(")
        for _ in range(20):
            writer.stdout.readline()
        after = log.read_text().count("sync(")
        os.kill(writer.pid, signal.SIGKILL)
    return {what: f"{(after - before) / 20:.1f}"}


def _weight(name: str) -> dict[str, str]:
    """Tell what a store adds to an installation, and to the start of a process."""
    module = {"SQLite": "sqlite3", "LanceDB": "lancedb"}[name]
    code = f"import time, numpy, pyarrow; t = time.perf_counter(); import {module}; " \
           "print(time.perf_counter() - t)"  # fmt: skip
    start = median(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                             check=True).stdout) for _ in range(3)
    )  # fmt: skip
    size = 0
    if name == "LanceDB":
        for package in ("lancedb", "lance-namespace", "lance-namespace-urllib3-client"):
            for file in importlib.metadata.files(package) or ():
                path = Path(str(file.locate()))
                size += path.stat().st_size if path.is_file() else 0
    return {
        "packages it adds, MB": f"{size / 1e6:.0f}",
        "import, milliseconds": f"{1000 * start:.0f}",
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
