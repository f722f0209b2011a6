"""What a Ray Train worker does: learn with the others, keep states, tell the driver."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rayreid.session import session  # noqa: F401 - before ray: it sets what ray reads on import

# isort: split
import ray
import torch
from pyarrow.fs import FileSelector
from ray.train import Checkpoint
from ray.train.torch import get_device

from rayreid.experiment import Experiment
from rayreid.learn import learn
from rayreid.run import open_sources, open_unlabelled
from rayreid.settings import checked
from rayreid.states import refuse_without_room, rows_of, save_state, told_if_full, why_broken


def work(config: dict[str, Any]) -> Any:
    """Learn on one worker; rank 0 keeps the states, each with the log up to it, and tells of it.

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

    def tell(*items: object) -> None:
        if rank == 0:
            ray.get(config["relay"].tell.remote(*items))

    # Not whatever GPU there is: only one that was asked for is this worker's.
    device = get_device() if config["gpu"] else torch.device("cpu")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            state = _resumed(Path(scratch) / "resumed", world, tell)
        except ValueError as error:
            return error
        rows = rows_of(state) if state else []
        tell(*rows)
        epochs = learn(
            experiment, sources, target=target, state=state, rank=rank, world=world, device=device
        )
        try:
            for epoch in epochs:
                folder = Path(scratch) / f"epoch_{epoch.number:05d}"
                folder.mkdir()
                rows.append(epoch.metrics() | {"workers": world})
                trouble: OSError | None = None
                if rank == 0:
                    try:
                        with told_if_full(folder):
                            save_state(epoch.learner, folder, rows)
                        refuse_without_room(config["storage"], folder)
                    except OSError as error:
                        trouble = error
                # Raised by one alone, the others would wait for it, and Ray would try it again.
                for found in _gathered(trouble, world):
                    if found:
                        return found
                kept = Checkpoint.from_directory(folder) if rank == 0 else None
                ray.train.report(rows[-1], checkpoint=kept)
                # Kept where any node finds it, so what is told from here on is never lost.
                tell(rows[-1])
                shutil.rmtree(folder)
        except (ValueError, FloatingPointError) as error:
            # Settings and the gradient are one on all workers, so they end here together.
            return error
    return None


def _resumed(place: Path, world: int, tell: Callable[[object], None]) -> Path | None:
    """Bring the newest state that is whole to ``place``, the same one on all workers.

    Raises `ValueError` where there are states and none is whole.
    """
    newest = ray.train.get_checkpoint()
    if newest is None:
        return None
    above = str(Path(newest.path).parent)
    beside = newest.filesystem.get_file_info(FileSelector(above))
    # Names are times; a younger one than the newest was never reported, or not to its end.
    paths = [info.path for info in beside if Path(info.path).name.startswith("checkpoint_")]
    for path in sorted((p for p in paths if p <= newest.path), reverse=True):
        state = place / Path(path).name
        Checkpoint(path, newest.filesystem).to_directory(str(state))
        if not any(broken := _gathered(why_broken(state), world)):
            return state
        tell(f"{path} is broken ({next(filter(None, broken))}); the state before it is used")
    raise ValueError(
        f"{above} holds no whole state: remove the run's folder, or give another --name, to begin "
        "anew"
    )


T = TypeVar("T")


def _gathered(mine: T, world: int) -> list[T]:
    """Return what each worker has, in order."""
    if world == 1:
        return [mine]
    every: list[Any] = [None] * world
    torch.distributed.all_gather_object(every, mine)
    return every
