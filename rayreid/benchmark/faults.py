"""Faults under load: what breaks, what is lost with it, and how long until all is well again."""

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rayreid.benchmark.data import machine
from rayreid.benchmark.hostile import Hostile, attacked, attackers
from rayreid.benchmark.load import REFUSED, Load, arrivals, closed_loop, elsewhere, open_loop
from rayreid.benchmark.processes import Process, proxy, replicas, serving
from rayreid.benchmark.requests import drawn_crops, requests
from rayreid.benchmark.serving import untrained
from rayreid.checkpoint import load_trained
from rayreid.guard.door import SETTINGS
from rayreid.report import table
from rayreid.run import commit
from rayreid.settings import FailureError

GONE_S = 15.0
"""How long the model's folder is gone."""
RATE = 8.0
"""Requests a second while something breaks: well below what two cores answer."""
QUIET_S = 4.0
"""How long all is well before something breaks."""
WELL_S = 60.0
"""How long it may take beyond the load until all is well again."""
DOOR: dict[str, float] = {"header_seconds": 3, "body_seconds": 6, "answer_seconds": 6}
"""How patient the door is here: a few times less than by default, so that minutes show it."""

Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Fault:
    """What a fault did to those who asked meanwhile."""

    name: str
    load: Load
    broke: float
    """When it broke, in seconds after the first request."""
    notes: tuple[str, ...] = ()
    measured: dict[str, float] = field(default_factory=dict)

    def lost(self) -> int:
        """Return the requests that were taken, and neither answered nor told to come back."""
        status = self.load.status
        told = (status == 200) | (status == REFUSED) | ((status == 503) & (self.load.told == 1))
        return int((~told).sum())

    def recovery(self) -> float:
        """Return the seconds from the fault until the last request that was not answered came."""
        failed = self.load.due[(self.load.status != 200) & (self.load.due >= self.broke)]
        return float(failed.max() - self.broke) if len(failed) else 0.0

    def row(self) -> tuple[str, ...]:
        """Return it as a row of the table."""
        counts = self.load.counts()
        _, _, p99 = self.load.percentiles()
        return (
            self.name, str(len(self.load.due)), str(counts.get("200", 0)),
            str(counts.get("503", 0)), str(counts.get("not connected", 0)), str(self.lost()),
            f"{self.recovery():.1f}",
            f"{1000 * p99:.0f}", "; ".join(self.notes),
        )  # fmt: skip


HEADER = ("fault", "asked", "answered", "told to come back (503)", "not connected", "lost",
          "seconds until all are answered again", "p99 of the answered, ms",
          "what else was seen")  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """A service that something will break, and requests for it."""

    port: int
    run: Path
    asked: Sequence[bytes]

    @contextmanager
    def under_load(self, seconds: float, rate: float = RATE) -> Iterator["Future[Load]"]:
        """Ask from another process while the body runs, which starts once all was well a while."""
        with attackers() as processes:
            due = arrivals(rate, seconds, 0)
            processes.submit(time.time).result()  # its start is none of the load's time
            load = processes.submit(open_loop, self.port, self.asked, due)
            time.sleep(QUIET_S)
            yield load

    def fault(
        self, name: str, break_it: Callable[[], tuple[str, ...]], seconds: float = 40.0
    ) -> Fault:
        """Break something under load; raises `FailureError` where it never is well again."""
        with self.under_load(seconds) as future:
            broke = time.time()
            notes = break_it()
            load = future.result()
        self.await_well()
        return Fault(name, load, broke - load.begun, notes)

    def await_well(self) -> None:
        """Wait until a request is answered: what breaks next should break something whole."""
        deadline = time.monotonic() + WELL_S
        while set(elsewhere(closed_loop, self.port, self.asked, 1, 60.0, 1).counts()) != {"200"}:
            if time.monotonic() > deadline:
                raise FailureError(
                    f"the service does not answer {WELL_S:g} s after; its logs are Ray's"
                )
            time.sleep(1)


@contextmanager
def bench(port: int, *, replicas: int = 1, run: Path | None = None) -> Iterator[Bench]:
    """Serve a small model for the body."""
    from rayreid.serve import start, stop
    from rayreid.serve.settings import service_of
    from rayreid.session import session

    # Serve's proxy inherits it from a Ray that is started here.
    os.environ.setdefault(SETTINGS, json.dumps(DOOR))
    with tempfile.TemporaryDirectory() as folder, session():
        run = run or untrained("quickstart", Path(folder))
        loading = load_trained(run).experiment.loading
        models = [{"run": run, "replicas": replicas}]
        start(service_of([], models=models, port=port, galleries=Path(folder) / "galleries"))
        try:
            asked = requests(drawn_crops(loading.height, loading.width), images=4)
            yield Bench(port, run, asked)
        finally:
            stop()


def killed(process: Process) -> tuple[str, ...]:
    """Kill a process as nobody can prevent (-9)."""
    os.kill(process.pid, signal.SIGKILL)
    return ()


def replica_killed(on: Bench) -> Fault:
    """Kill one of the model's replicas."""
    count = len(replicas(on.run.name))
    return on.fault(f"one of {count} replicas killed -9", lambda: killed(replicas(on.run.name)[0]))


def ingress_killed(on: Bench) -> Fault:
    """Kill the process that reads requests."""
    return on.fault("the ingress killed -9", lambda: killed(replicas("ingress")[0]))


def proxy_killed(on: Bench) -> Fault:
    """Kill the process that accepts connections."""
    return on.fault("the proxy killed -9", lambda: killed(proxy()))


def folder_deleted(on: Bench) -> Fault:
    """Delete the model's folder, and then kill the replica, which cannot be loaded again."""
    kept = on.run.with_name("kept")

    def delete() -> tuple[str, ...]:
        shutil.move(on.run, kept)
        time.sleep(GONE_S / 3)
        killed(replicas(on.run.name)[0])
        time.sleep(GONE_S * 2 / 3)
        shutil.move(kept, on.run)
        return (f"killed {GONE_S / 3:g} s after, the folder back after {GONE_S:g} s",)

    return on.fault("the model's folder deleted, then its replica killed -9", delete, seconds=50.0)


def attack(on: Bench, way: str, count: int, seconds: float) -> Fault:
    """Let clients misbehave while others ask."""
    door, before = proxy(), sum(one.resident for one in serving())
    most_files = most_memory = 0
    seen: list[Hostile] = []

    def misbehave() -> tuple[str, ...]:
        nonlocal most_files, most_memory
        with attackers() as processes:
            future = processes.submit(attacked, on.port, way, count, seconds)
            while not future.done():
                most_files = max(most_files, proxy().files - door.files)
                most_memory = max(most_memory, sum(one.resident for one in serving()) - before)
                time.sleep(0.25)
            seen.append(future.result())
        return ()

    fault = on.fault(
        f"{count:,} clients: {way.replace('_', ' ')}", misbehave, seconds + QUIET_S + 8
    )
    (hostile,) = seen
    measured = {
        "connected": float(hostile.connected),
        "closed": float(hostile.closed),
        "longest_s": hostile.longest,
        "files": float(most_files),
        "bytes": float(most_memory),
    }
    notes = (
        f"{hostile.connected:,} connected, {hostile.closed:,} ended by the service, the longest "
        f"after {hostile.longest:.0f} s",
        f"at most {most_files:,} connections held",
        f"memory +{most_memory / 2**20:.0f} MiB",
    )
    return Fault(fault.name, fault.load, fault.broke, notes, measured)


ATTACKS = (
    ("dripping_headers", 300, 8.0),
    ("dripping_body", 300, 12.0),
    ("slow_reader", 20, 30.0),
    ("half_sent", 200, 8.0),
    ("silent", 10_000, 12.0),
)
"""Ways to misbehave, by how many clients, for how many seconds."""


def faults(to: Path, tell: Tell, *, port: int = 8766) -> str:
    """Break everything in turn; return a page with what was lost, which also goes to ``to``."""
    rows: list[Fault] = []

    def noted(fault: Fault) -> None:
        rows.append(fault)
        tell(" | ".join(fault.row()))

    with bench(port, replicas=2) as on:
        noted(replica_killed(on))
    with bench(port) as on:
        noted(replica_killed(on))
        noted(ingress_killed(on))
        noted(proxy_killed(on))
        for way, count, seconds in ATTACKS:
            noted(attack(on, way, count, seconds))
        noted(folder_deleted(on))
    page = (
        f"# Faults\n\n`rayreid benchmark faults`: {machine()}; commit {commit()}. A small model; "
        f"{RATE:g} requests a second of 4 images arrive at random times from another process, and "
        f"after {QUIET_S:g} s something breaks. Lost is what was taken, and neither answered nor "
        f"told to come back; not connected is what nobody listened to. The door is less patient "
        f"than by default: {DOOR}.\n\n" + table(HEADER, [fault.row() for fault in rows])
    )
    to.mkdir(parents=True, exist_ok=True)
    (to / "faults.md").write_text(page + "\n")
    return page
