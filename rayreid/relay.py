"""What workers tell the driver, wherever both run: nodes need no folder that they share."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rayreid.session import session  # noqa: F401 - before ray: it sets what ray reads on import

# isort: split
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayreid.run import Listener, Run
from rayreid.states import Row, told_if_full

log = logging.getLogger(__name__)

LOOK_SECONDS, ROOM_SECONDS = 0.3, 15.0
"""Between two looks at what was told, and at whether there is room for the workers."""


class Relay:
    """Keeps what was told, in order; an actor beside the driver, which outlives any worker."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def tell(self, *items: Any) -> None:
        """Add rows of metrics, or sentences for the user."""
        self.told.extend(items)

    def since(self, count: int) -> list[Any]:
        """Return all but the first ``count`` that were told."""
        return self.told[count:]


@contextmanager
def relayed(run: Run, listen: Listener, cores: int) -> Iterator[Any]:
    """Yield an actor that workers `Relay.tell`; what they tell is logged here, and listened to.

    A row that the run has already, which a resumed worker repeats, is passed over. A cluster that
    has fewer than ``cores``, so that the run waits, is warned of.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    relay: Any = ray.remote(num_cpus=0)(Relay).options(scheduling_strategy=here).remote()
    over = threading.Event()
    follower = _Follower(run, listen, relay, _Waiting(cores), over)
    follower.start()
    try:
        yield relay
    finally:
        over.set()
        follower.join()
        ray.kill(relay)
    if follower.failed:
        raise follower.failed


class _Follower(threading.Thread):
    """Logs what the relay was told, and passes it on."""

    def __init__(
        self, run: Run, listen: Listener, relay: Any, waiting: "_Waiting", over: threading.Event
    ):
        super().__init__(name="relay", daemon=True)
        self.run_, self.listen, self.relay, self.over = run, listen, relay, over
        self.waiting = waiting
        self.heard = 0
        self.known: dict[Any, Row] = {row["epoch"]: row for row in run.metrics()}
        self.failed: Exception | None = None

    def run(self) -> None:
        """Listen until the body is over; a full disk is waited out, and raised at the end."""
        last = False
        try:
            while not last:
                last = self.over.wait(LOOK_SECONDS)
                try:
                    self._hear()
                    self.failed = None
                except OSError as error:
                    if not self.failed:
                        log.warning("%s; told again when it can be written", error)
                    self.failed = error
                self.waiting.look()
        except Exception as error:  # the cluster is gone: raised where the body ends
            self.failed = error

    def _hear(self) -> None:
        for item in ray.get(self.relay.since.remote(self.heard)):
            if isinstance(item, str):
                log.warning("%s", item)
            elif self.known.get(item["epoch"]) != item:
                with told_if_full(self.run_.folder):
                    self.run_.log(item)
                self.known[item["epoch"]] = item
                self.listen(item)
            self.heard += 1


class _Waiting:
    """Says once, until it changes, that the cluster has no room for the workers."""

    def __init__(self, cores: int, clock: Callable[[], float] = time.monotonic):
        self.cores, self.clock = cores, clock
        self.looked, self.said = clock(), False

    def look(self) -> None:
        """Warn where there are fewer cores than needed."""
        if self.clock() - self.looked < ROOM_SECONDS:
            return
        self.looked = self.clock()
        there = int(ray.cluster_resources().get("CPU", 0))
        if there < self.cores and not self.said:
            log.warning(
                "the cluster has %d core(s) left and the workers need %d: the run waits for a "
                "node; with --workers MIN-MAX it would go on with what there is",
                there,
                self.cores,
            )
        self.said = there < self.cores
