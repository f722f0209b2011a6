"""A job's log as it grows, over connections that come and go.

A look is two short requests, so there is nothing to reconnect: a laptop that was closed for a
night goes on with the next one. Each carries the whole log (Ray's stream of it ends without a word
where the network does); looks are paced so that they take a fifth of the time at most.
"""

import re
import time
from collections.abc import Callable

from rayreid.cluster.job import Job
from rayreid.cluster.job_client import JobClient

PATIENCE_SECONDS = 600
"""How long a cluster may be out of reach before following it ends."""
LOOK_SECONDS = 1.0


def follow(
    client: JobClient,
    name: str,
    tell: Callable[[str], None],
    state: Callable[[str], None],
    *,
    patience: float = PATIENCE_SECONDS,
) -> Job:
    """Tell a job's log as it grows, and its state after each look, until it ends; return it.

    Raises `ConnectionError` where the cluster is out of reach for longer than ``patience``
    seconds; the job does not mind.
    """
    told, lost = 0, 0.0
    while True:
        began = time.monotonic()
        try:
            # The state before the log, so that the log of a job that ended is whole.
            job = client.job(name)
            log = client.get_job_logs(name)
        except ConnectionError as error:
            lost = lost or began
            if began - lost > patience:
                raise ConnectionError(
                    f"{error} {name} goes on if its head does; follow it again with "
                    f"{client.again('logs', name, '--follow')}"
                ) from None
            state(f"no answer for {_clock(began - lost)}, trying again; {name} goes on")
            time.sleep(2 * LOOK_SECONDS)
            continue
        lost = 0.0
        over = not job.goes_on
        ready = len(log) if over else log.rfind("\n") + 1
        if ready > told:
            tell(log[told:ready])
            told = ready
        state(progress(job, log[:told]))
        if over:
            return job
        time.sleep(max(LOOK_SECONDS, 4 * (time.monotonic() - began)))


def progress(job: Job, log: str = "") -> str:
    """Return a line on how far a job is: its state, for how long, and the last i/n of its log."""
    until = job.ended or time.time()
    since = _clock(max(0.0, until - (job.began or until)))
    steps = re.findall(r"\b(\w+) (\d+)/(\d+)", log[-10_000:])
    far = f", {steps[-1][0]} {steps[-1][1]} of {steps[-1][2]}" if steps else ""
    return f"{job.name} {job.state} {since}{far}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
