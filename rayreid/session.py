"""A Ray cluster to run on: the one this shell is attached to, or a private one for a while."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

# Ray reads these when it is first imported, and workers inherit them.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A checkpoint counts once the controller has polled it: a short interval loses less to a kill.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray


@contextmanager
def session(cpus: int | None = None) -> Iterator[None]:
    """Run the body on a Ray cluster, and leave no process of ours behind.

    Where ``RAY_ADDRESS`` is set, on that cluster; where this process already uses Ray, on
    that; else on a private one on this machine, stopped when the body ends, however it ends.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    ray.init(
        address,
        num_cpus=cpus if address == "local" else None,
        logging_level=logging.WARNING,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()
