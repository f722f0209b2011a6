"""Which store keeps galleries: SQLite beside LanceDB.

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
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from rayreid.benchmark.data import machine
from rayreid.benchmark.gallery_searches import AT_ONCE, SHORTLIST, searches
from rayreid.benchmark.gallery_stores import SHAPES, STORES, Kept, rows
from rayreid.report import table
from rayreid.run import commit

BATCH = 256
"""Samples of a batched enrolment."""


def galleries(
    to: Path,
    tell: Callable[[str], None],
    *,
    vectors: int = 50_000,
    maps: int = 2_000,
    kills: int = 2,
    searched: int = 100_000,
    stores: Sequence[str] = tuple(STORES),
) -> str:
    """Measure the stores, and searches of ``searched`` vectors and a tenth as many maps.

    Return a page with the tables, which goes to ``to/galleries.md``, its figures beside it.
    """
    others = os.getloadavg()[0]
    found: dict[str, object] = {"machine": machine(), "commit": commit(), "vectors": vectors,
                                "maps": maps, "kills": kills, "searched": searched,
                                "others_on_the_machine": round(others, 1)}  # fmt: skip
    columns: dict[str, dict[str, str]] = {}
    for name in stores:
        if name == "LanceDB" and importlib.util.find_spec("lancedb") is None:
            tell("LanceDB is not installed; pip install lancedb measures it too")
            continue
        column: dict[str, str] = {}
        for kind, count in (("vectors", vectors), ("maps", maps)):
            with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                column |= _measured(name, Path(folder), kind, count)
            tell(f"{name}: {count:,} {kind} were measured")
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            column |= _killed(name, Path(folder), kills)
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            column |= _synced(name, Path(folder))
        column |= _weight(name)
        columns[name] = column
    found["stores"] = columns
    compared = [
        (what, *(column.get(what, "") for column in columns.values()))
        for what in next(iter(columns.values()))
    ]
    found["searches"] = took = searches(searched, searched // 10)
    to.mkdir(parents=True, exist_ok=True)
    (to / "galleries.json").write_text(json.dumps(found, indent=1) + "\n")
    told = (
        f"{machine()}; {others:.1f} others on the machine at the start. {vectors:,} embeddings of "
        f"512 numbers (2 KiB) and {maps:,} maps (48 KiB), in batches of {BATCH}.\n\n"
        + table(("stores", *columns), compared)
        + f"\n\nSearches of a snapshot by one thread, of random embeddings by untrained models; "
        f"GMN and QAConv score the {SHORTLIST} first of their cheap score exactly.\n\n"
        + table(("search", "samples", "MiB held", *(f"ms for {n} together" for n in AT_ONCE)), took)
    )
    (to / "galleries.md").write_text(told + "\n")
    return told


def _measured(name: str, folder: Path, kind: str, count: int) -> dict[str, str]:
    kept: Kept = STORES[name](folder, SHAPES[kind])
    single = []
    for number in range(50):
        row = rows(kind, 1, number)
        single.append(_seconds(functools.partial(kept.add, count + number, row)))
    marked = rows(kind, 1, 10**6)
    kept.add(count + 999, marked)
    seconds = 0.0
    for start in range(0, count, BATCH):
        some = rows(kind, min(BATCH, count - start), start)
        seconds += _seconds(functools.partial(kept.add, start, some))
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
    return subprocess.Popen(
        [*arguments, "0", "2000"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )


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
        # Both: a writer whose tracer is gone goes on.
        os.killpg(writer.pid, signal.SIGKILL)
        writer.stdout.read()
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
