"""Training on Ray Train: DDP over workers that each draw their own identities."""

import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rayreid.session import session  # before ray: it sets what ray reads on import

# isort: split
import ray
import torch
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    Result,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)
from ray.train.torch import TorchTrainer

from rayreid.batch import Census, Domain
from rayreid.checkpoint import build
from rayreid.data.storage import Storage, is_remote
from rayreid.experiment import Experiment
from rayreid.learn import learn
from rayreid.results import APART
from rayreid.run import (
    Listener,
    Run,
    finish,
    learn_here,
    open_sources,
    open_unlabelled,
    save_epoch,
)
from rayreid.settings import FailureError, checked

MAX_FAILURES = 3
"""Lost workers after which a run is given up; each loss costs the epoch it happened in."""


def train_on_ray(
    run: Run,
    workers: int,
    listen: Listener,
    *,
    sources: Sequence[Domain] | None = None,
    gpus: bool | None = None,
    cpus: int = 1,
) -> None:
    """Learn a run with DDP over ``workers`` Ray Train workers (gloo on CPUs, NCCL on GPUs).

    A worker that dies is replaced and the run goes on from its last epoch; called again
    after the driver died, it goes on likewise. Each worker gets a GPU where the cluster has
    them (or as ``gpus`` says) and ``cpus`` cores. ``sources`` spares opening them here once more,
    for the ranking at the end.

    Raises `ValueError` for a cluster that is too small, a user's mistake as `learn` does, and
    `FailureError` where workers failed for other reasons, or too often.
    """
    if run.finished:
        return
    # A trunk that cannot be had, or cannot serve the method, is said here, before workers start to
    # look for it in turn.
    run.experiment.refuse_unless_adapting(bool(run.experiment.target))
    build(run.experiment, Census({"anybody": 2}))
    with session(), _followed(run, listen):
        there = ray.cluster_resources()
        use_gpu = there.get("GPU", 0) >= workers if gpus is None else gpus
        if there.get("CPU", 0) < workers * cpus:
            raise ValueError(
                f"{workers} workers x {cpus} core(s) do not fit the cluster's "
                f"{there.get('CPU', 0):.0f} core(s); lower --workers"
            )
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "experiment": run.experiment.tree(),
                "folder": str(run.folder),
                "gpu": use_gpu,
            },
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=use_gpu, resources_per_worker={"CPU": cpus}
            ),
            run_config=RunConfig(
                name=APART,
                **_kept_by_ray(run.storage),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
            ),
        )
        result = _fitted(trainer)
    answer = getattr(result, "return_value", None)
    if isinstance(answer, Exception):
        raise answer
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as state:
        opened = open_sources(run.experiment) if sources is None else sources
        finish(run, Path(state), opened, workers=workers)


def _kept_by_ray(storage: Storage) -> dict[str, Any]:
    """Return where Ray keeps its files of a run, as `RunConfig` takes it."""
    if not is_remote(storage.address):
        return {"storage_path": storage.address}
    system, path = storage.arrow()
    return {"storage_path": path, "storage_filesystem": system}


def learn_side_by_side(
    runs: Sequence[Run], sources: Sequence[Domain], listen: Callable[[Run], Listener]
) -> None:
    """Learn several runs of the same sources, each in a process of one core, on the cluster's.

    As many go at a time as there are cores; ``listen(run)`` is told that run's metrics.

    Raises a user's mistake as `learn` does.
    """
    with session(), ExitStack() as following:
        for run in runs:
            run.experiment.refuse_unless_adapting(bool(run.experiment.target))
            following.enter_context(_followed(run, listen(run)))
        shared: Any = ray.put(list(sources))
        task = ray.remote(num_cpus=1, max_retries=MAX_FAILURES)(_learn_alone)
        learning = [task.remote(str(run.folder), run.experiment.tree(), shared) for run in runs]
        for mistake in ray.get(learning):
            if mistake:
                raise mistake


def _learn_alone(folder: str, tree: dict[str, Any], sources: Sequence[Domain]) -> Exception | None:
    torch.set_num_threads(1)
    try:
        run = Run(Path(folder), checked(Experiment, tree))
        learn_here(run, sources, lambda _: None)
    except (ValueError, OSError, FloatingPointError) as mistake:
        return mistake
    return None


def _fitted(trainer: TorchTrainer) -> Result:
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


def _work(config: dict[str, Any]) -> Any:
    """Learn on one worker; rank 0 keeps the log and the checkpoints.

    Returns a user's mistake instead of raising it: Ray would start the workers again, only
    to hear it again.
    """
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    experiment = checked(Experiment, config["experiment"])
    mistake: Exception | None = None
    try:
        sources = open_sources(experiment, parts=["train"])
        target = open_unlabelled(experiment)
    except (ValueError, OSError) as error:
        mistake = error
    # A node may lack what the others have; none may wait for it in vain.
    for found in _gathered(mistake, world):
        if found:
            return found
    run = Run(Path(config["folder"]), experiment) if rank == 0 else None
    # Not whatever GPU there is: only one that was asked for is this worker's.
    device = ray.train.torch.get_device() if config["gpu"] else torch.device("cpu")
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = ray.train.get_checkpoint()
        state = Path(checkpoint.to_directory(f"{scratch}/resumed")) if checkpoint else None
        epochs = learn(
            experiment, sources, target=target, state=state, rank=rank, world=world, device=device
        )
        try:
            for epoch in epochs:
                folder = Path(scratch) / f"epoch_{epoch.number:05d}"
                folder.mkdir()
                if run:
                    save_epoch(epoch.learner, folder)
                    run.log(epoch.metrics())
                kept = Checkpoint.from_directory(folder) if run else None
                ray.train.report(epoch.metrics(), checkpoint=kept)
        except (ValueError, FloatingPointError) as error:
            # Settings and the gradient are one on all workers, so they end here together.
            return error
    return None


def _gathered(mine: Exception | None, world: int) -> list[Exception | None]:
    if world == 1:
        return [mine]
    every: list[Exception | None] = [None] * world
    torch.distributed.all_gather_object(every, mine)
    return every


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
