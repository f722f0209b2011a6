"""The training loop: a generator of epochs, which knows torch but not Ray."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from rayreid.batch import Crops, Domain
from rayreid.experiment import Experiment
from rayreid.gallery import Target
from rayreid.learner import Learner
from rayreid.ranking.metrics import Ranking


@dataclass(frozen=True)
class Epoch:
    """What an epoch of training came to."""

    number: int
    """Epochs learnt so far, from 1."""
    losses: Mapping[str, float]
    """Mean of each weighted loss over the steps and the workers."""
    monitors: Mapping[str, float]
    """Mean of each of the method's other figures likewise."""
    images_per_second: float
    """Over all workers, ranking left out."""
    waiting: float
    """Share of the time in which this worker waited for data."""
    skipped: int
    """Steps left out because their gradient was not finite."""
    lr: float
    """Learning rate of the last step."""
    seconds: float
    """Wall time of learning, ranking left out."""
    rankings: Mapping[str, Ranking]
    """Metrics by target, where targets were given and ranking was due."""
    seconds_ranking: float
    """Wall time of ranking."""
    learner: Learner
    """The state after the epoch: to save, to rank, to resume from."""

    def metrics(self) -> dict[str, float]:
        """Return the figures as one flat mapping, for a log."""
        figures = {f"loss/{name}": value for name, value in self.losses.items()}
        figures |= {f"monitor/{name}": value for name, value in self.monitors.items()}
        for name, ranking in self.rankings.items():
            figures |= {f"mAP/{name}": ranking.map, f"rank1/{name}": ranking.cmc[0]}
        speed = {"images_per_second": self.images_per_second, "waiting": self.waiting}
        speed["seconds"] = self.seconds
        counts = {"epoch": self.number, "skipped": self.skipped, "lr": self.lr}
        return figures | speed | counts


def learn(
    experiment: Experiment,
    sources: Sequence[Domain],
    *,
    target: Crops | None = None,
    state: Path | None = None,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
    targets: Sequence[Target] = (),
    rank_every: int = 1,
) -> Iterator[Epoch]:
    """Yield the epochs of training, one `Epoch` when each is over.

    ``sources`` are the opened domains of ``experiment.sources``, ``target`` the training crops of
    ``experiment.target``, whose labels are not looked at. ``state`` is a folder that
    `Learner.save` wrote: training goes on from there, and what follows equals what would
    have followed without the interruption, bit for bit on a CPU. ``rank`` of ``world``
    workers, in a process group that is already up, learn together. ``targets`` are ranked
    after every ``rank_every`` epochs and after the last.

    Raises `ValueError` for sources that cannot be learnt from or a state that does not fit,
    `FloatingPointError` where no step of an epoch had a finite gradient.
    """
    learner = Learner(
        experiment, sources, target, rank=rank, world=world, device=torch.device(device)
    )
    if state is not None:
        learner.load(state)
    while learner.epoch < experiment.epochs:
        figures = learner.advance()
        due = learner.epoch % rank_every == 0 or learner.epoch == experiment.epochs
        began = time.perf_counter()
        rankings = {t.name: t.rank(learner.averaged) for t in targets} if due else {}
        yield Epoch(
            number=learner.epoch,
            rankings=rankings,
            seconds_ranking=time.perf_counter() - began,
            learner=learner,
            **asdict(figures),
        )
