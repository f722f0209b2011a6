"""A Ray cluster to run on: the one this shell is attached to, or a private one for a while."""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Ray reads these when it is first imported, and workers inherit them.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A checkpoint counts once the controller has polled it: a short interval loses less to a kill.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
# After a loss the room for workers is counted anew every 20 s; a group that there is no room for is
# given up after as long, and tried again at the size that there is room for.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# We tell progress ourselves; Tune's other reporter prints its tables at any verbosity.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Tune's handler would end the study on Ctrl-C and return, and what follows a study would begin.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
# A study keeps its own record, and resumes by it: Tune's logs and snapshots are time for nothing.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000")
# What still listens to Serve's controller when a service ends is told that it is gone: as wanted.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", r"Task ServeController\.\w+ failed")
# Serve's proxy asks it what stands before it. Nodes of other clusters are started with this set.
os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "rayreid.guard.door.middlewares")
# A proxy is replaced after three checks that fail; by default they are 10 s apart.
os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S", "1")
if "RAY_ADDRESS" not in os.environ:
    os.environ.setdefault("RAY_AUTH_MODE", "token")

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
    if address == "local":
        _make_token(Path.home() / ".ray" / "auth_token")
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


def nodes() -> int:
    """Return how many nodes with cores the cluster has that this process uses."""
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


def _make_token(path: Path) -> None:
    """Make the token that Ray's processes ask each other for; Ray's own would be world-readable."""
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    if path.exists():
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
