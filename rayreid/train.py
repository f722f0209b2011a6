"""Training on Ray Train: DDP over workers that each draw their own identities."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from rayreid.session import session  # before ray: it sets what ray reads on import

# isort: split
import ray
import torch
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    Result,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)
from ray.train.torch import TorchTrainer

from rayreid.batch import Census, Domain
from rayreid.checkpoint import CARD, build
from rayreid.data.storage import Storage, is_remote
from rayreid.experiment import Experiment
from rayreid.relay import relayed
from rayreid.results import APART
from rayreid.run import (
    STATES,
    Listener,
    Run,
    finish,
    learn_here,
    open_sources,
)
from rayreid.settings import FailureError, checked
from rayreid.states import KEPT, told_if_full
from rayreid.worker import work

log = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Losses of workers without an epoch in between after which a run is given up; each costs at most
the epoch it happened in."""

GROW_SECONDS = 30.0
"""How often a run of MIN-MAX workers looks whether there is room for more."""

Placement = Literal["pack", "spread", "strict_spread"]
"""Workers on as few nodes as go, on as many as go, or on a node each."""


def train_on_ray(
    run: Run,
    workers: int | tuple[int, int],
    listen: Listener,
    *,
    sources: Sequence[Domain] | None = None,
    gpus: bool | None = None,
    cpus: int = 1,
    placement: Placement = "pack",
) -> None:
    """Learn a run with DDP over ``workers`` Ray Train workers (gloo on CPUs, NCCL on GPUs).

    A worker or a node that dies is replaced and the run goes on from its last epoch; called again
    after the driver died, it goes on likewise. Of ``(least, most)`` workers there are as many as
    the cluster has room for: it goes on at once with those that are left, and with more when there
    is room again; ``experiment.scaling`` says what that does to the batch and the rate. Each
    worker gets a GPU where the cluster has them (or as ``gpus`` says) and ``cpus`` cores.
    ``sources`` spares opening them here once more, for the ranking at the end.

    Nodes share nothing but ``run.storage``, where Ray keeps the states; it is a folder that all
    of them see, or an object store.

    Raises `ValueError` for a cluster that is too small, a user's mistake as `learn` does, and
    `FailureError` where workers failed for other reasons, or too often.
    """
    if run.finished:
        return
    numbers: Any = {"num_workers": workers, "elastic_resize_monitor_interval_s": GROW_SECONDS}
    least, most = workers if isinstance(workers, tuple) else (workers, workers)
    if placement == "strict_spread" and least < most:
        raise ValueError(
            "MIN-MAX workers counts the cluster's cores, not its nodes: with --placement "
            "strict_spread give one number of workers, or take spread"
        )
    # A trunk that cannot be had, or cannot serve the method, is said here, before workers start to
    # look for it in turn.
    run.experiment.refuse_unless_adapting(bool(run.experiment.target))
    build(run.experiment, Census({"anybody": 2}))
    with session():
        there = ray.cluster_resources()
        use_gpu = there.get("GPU", 0) >= least if gpus is None else gpus
        if there.get("CPU", 0) < least * cpus:
            raise ValueError(
                f"{least} workers x {cpus} core(s) do not fit the cluster's "
                f"{there.get('CPU', 0):.0f} core(s); lower --workers"
            )
        with relayed(run, listen, least * cpus) as relay:
            trainer = TorchTrainer(
                work,
                train_loop_config={
                    "experiment": run.experiment.tree(),
                    "relay": relay,
                    "storage": run.storage.address,
                    "gpu": use_gpu,
                },
                scaling_config=ScalingConfig(
                    **numbers,
                    use_gpu=use_gpu,
                    resources_per_worker={"CPU": cpus},
                    placement_strategy=placement.upper(),
                ),
                run_config=RunConfig(
                    name=APART,
                    **_kept_by_ray(run.storage),
                    checkpoint_config=CheckpointConfig(num_to_keep=KEPT),
                    failure_config=FailureConfig(max_failures=MAX_FAILURES),
                ),
            )
            result = _fitted(trainer, run)
    answer = getattr(result, "return_value", None)
    if isinstance(answer, Exception):
        raise answer
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as state:
        opened = open_sources(run.experiment) if sources is None else sources
        at_last = run.metrics()[-1].get("workers", most)
        with told_if_full(run.folder):
            finish(run, Path(state), opened, workers=at_last)


def _kept_by_ray(storage: Storage) -> dict[str, Any]:
    """Return where Ray keeps its files of a run, as `RunConfig` takes it."""
    if not is_remote(storage.address):
        return {"storage_path": storage.address}
    system, path = storage.arrow()
    return {"storage_path": path, "storage_filesystem": system}


def learn_side_by_side(
    runs: Sequence[Run],
    sources: Sequence[Domain],
    listen: Callable[[Run], Listener],
    *,
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> None:
    """Learn several runs of the same sources, each in a process of its own, on the cluster's.

    As many go at a time as there is room for, each with ``cpus`` cores and ``gpus`` GPUs;
    ``listen(run)`` is told that run's metrics, of a node that does not share its folder when it has
    ended. What a run left there is brought here.

    Raises a user's mistake as `learn` does.
    """
    with session(), ExitStack() as following:
        for run in runs:
            run.experiment.refuse_unless_adapting(bool(run.experiment.target))
            following.enter_context(_followed(run, listen(run)))
        shared: Any = ray.put(list(sources))
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=MAX_FAILURES)(_learn_alone)
        learning = [task.remote(str(run.folder), run.experiment.tree(), shared) for run in runs]
        for run, left in zip(runs, learning, strict=True):
            _bring(run, ray.get(left))


def _learn_alone(
    folder: str, tree: dict[str, Any], sources: Sequence[Domain]
) -> dict[str, bytes] | Exception:
    """Learn a run, and return what it left, or the user's mistake that ended it."""
    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources()["CPU"])))
    try:
        run = Run(Path(folder), checked(Experiment, tree))
        learn_here(run, sources, lambda _: None)
    except (ValueError, OSError, FloatingPointError) as mistake:
        return mistake
    files = {path.relative_to(run.folder): path for path in run.folder.rglob("*") if path.is_file()}
    # States only serve to go on, and this run has ended.
    return {str(file): path.read_bytes() for file, path in files.items() if file.parts[0] != STATES}


def _bring(run: Run, left: dict[str, bytes] | Exception) -> None:
    """Write what a run left on another node, unless it is here; raise the mistake that ended it."""
    if isinstance(left, Exception):
        raise left
    if run.finished:  # the nodes share its folder
        return
    # The card last: with it, the run is finished.
    for file in sorted(left, key=lambda file: Path(file).name == CARD):
        path = run.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(left[file])


def _fitted(trainer: TorchTrainer, run: Run) -> Result:
    """Fit, again as long as each attempt learns an epoch that the one before did not."""
    while True:
        learnt = len(run.metrics())
        try:
            return _fitted_once(trainer)
        except (FailureError, OSError) as error:
            if len(run.metrics()) == learnt:
                raise
            log.warning("%s; going on from epoch %d", error, len(run.metrics()))


def _fitted_once(trainer: TorchTrainer) -> Result:
    """Fit, and raise `KeyboardInterrupt` where Ctrl-C ended it.

    Ray takes Ctrl-C over to end its workers, exits the process, and never gives it back.
    """
    on_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        return trainer.fit()
    except SystemExit:
        raise KeyboardInterrupt from None
    except TrainingFailedError as error:
        failures = list(getattr(error, "worker_failures", {}).values())
        cause = failures[0] if failures else error
        if isinstance(cause, ValueError | OSError):
            raise cause from error
        raise FailureError(f"the workers failed: {cause}") from error
    finally:
        if on_main_thread:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _followed(run: Run, listen: Listener) -> Iterator[None]:
    """Tell ``listen`` each epoch's metrics as the workers log them."""
    over = threading.Event()

    def follow() -> None:
        told = max((row["epoch"] for row in run.metrics()), default=0)
        while True:
            last_look = over.wait(0.3)
            for row in run.metrics():
                if row["epoch"] > told:
                    told = row["epoch"]
                    listen(row)
            if last_look:
                return

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()
