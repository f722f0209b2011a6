"""The training loop: a generator of epochs, which knows torch but not Ray."""

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed import ReduceOp, all_reduce, is_initialized
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rayreid.batch import Batch, Census, Domain
from rayreid.checkpoint import build, plain
from rayreid.data.loading import TrainingSet, loaded
from rayreid.data.sampling import IdentitySampler
from rayreid.data.views import as_images, varied
from rayreid.experiment import Experiment
from rayreid.gallery import Target
from rayreid.method import Method
from rayreid.nn.optimiser import optimiser_of, rate_after
from rayreid.ranking.metrics import Ranking

log = logging.getLogger(__name__)

STATE, POSITION = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Epoch:
    """What an epoch of training came to."""

    number: int
    """Epochs learnt so far, from 1."""
    losses: Mapping[str, float]
    """Mean of each weighted loss over the steps and the workers."""
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
    learner: "Learner"
    """The state after the epoch: to save, to rank, to resume from."""

    def metrics(self) -> dict[str, float]:
        """Return the figures as one flat mapping, for a log."""
        figures = {f"loss/{name}": value for name, value in self.losses.items()}
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
    state: Path | None = None,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
    targets: Sequence[Target] = (),
    rank_every: int = 1,
) -> Iterator[Epoch]:
    """Yield the epochs of training, one `Epoch` when each is over.

    ``sources`` are the opened domains of ``experiment.sources``. ``state`` is a folder that
    `Learner.save` wrote: training goes on from there, and what follows equals what would
    have followed without the interruption, bit for bit on a CPU. ``rank`` of ``world``
    workers, in a process group that is already up, learn together. ``targets`` are ranked
    after every ``rank_every`` epochs and after the last.

    Raises `ValueError` for sources that cannot be learnt from or a state that does not fit,
    `FloatingPointError` where no step of an epoch had a finite gradient.
    """
    learner = Learner(experiment, sources, rank=rank, world=world, device=torch.device(device))
    if state is not None:
        learner.load(state)
    while learner.epoch < experiment.epochs:
        figures = learner.advance()
        due = learner.epoch % rank_every == 0 or learner.epoch == experiment.epochs
        rankings = {t.name: t.rank(learner.averaged) for t in targets} if due else {}
        yield Epoch(number=learner.epoch, rankings=rankings, learner=learner, **asdict(figures))


@dataclass(frozen=True)
class _Figures:
    losses: dict[str, float]
    images_per_second: float
    waiting: float
    skipped: int
    lr: float
    seconds: float


class Learner:
    """All that a training run must remember between two epochs."""

    def __init__(
        self,
        experiment: Experiment,
        sources: Sequence[Domain],
        *,
        rank: int,
        world: int,
        device: torch.device,
    ):
        self.experiment, self.rank, self.world, self.device = experiment, rank, world, device
        self.crops = TrainingSet(sources, experiment.loading)
        self.sampler = IdentitySampler(
            experiment.sampling,
            self.crops.identities,
            self.crops.domains,
            self.crops.names,
            seed=experiment.seed,
            rank=rank,
            world=world,
        )
        self.steps = experiment.steps_per_epoch or self.sampler.steps
        self.method = build(experiment, self.crops.census)
        self.method = self.method.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parallel: nn.Module = self.method
        if world > 1:
            assert is_initialized(), "several workers need a process group"
            self.parallel = DistributedDataParallel(
                self.method, device_ids=[device] if device.type == "cuda" else None
            )
        self.optimiser = optimiser_of(self.method, experiment.optimiser)
        decay = experiment.optimiser.ema
        self.average = (
            AveragedModel(self.method, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
        )
        self.epoch = 0

    @property
    def census(self) -> Census:
        """Return who is in the training set."""
        return self.crops.census

    @property
    def averaged(self) -> Method:
        """Return the method to rank and to save: of averaged weights where they are kept."""
        return cast(Method, self.average.module) if self.average else self.method

    def advance(self) -> _Figures:
        """Learn one epoch."""
        experiment, device = self.experiment, self.device
        seed = np.random.SeedSequence((experiment.seed, self.epoch, self.rank)).generate_state(2)
        views = torch.Generator().manual_seed(int(seed[0]))
        self.parallel.train()
        self.method.start_epoch(self.epoch)
        totals: dict[str, Tensor] = {}
        skipped, images, waited = 0, 0, 0.0
        rate = 0.0
        batches = loaded(self.crops, self.sampler.epoch(self.epoch, self.steps), experiment.loading)
        started = mark = time.perf_counter()
        # Random numbers of an epoch follow from the seed alone: an interrupted run repeats them.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(seed[1]))
            for step, (pixels, *labels) in enumerate(batches, self.epoch * self.steps):
                waited += time.perf_counter() - mark
                rate = rate_after(experiment.optimiser, step / (self.steps * experiment.epochs))
                crops = as_images(pixels.to(device, non_blocking=True))
                batch = Batch(
                    varied(crops, experiment.views, views), *(x.to(device) for x in labels)
                )
                losses = self._step(batch, rate)
                if losses is None:
                    skipped += 1
                else:
                    totals = {name: totals.get(name, 0) + loss for name, loss in losses.items()}
                images += len(pixels)
                mark = time.perf_counter()
        if skipped == self.steps:
            raise FloatingPointError(
                f"no step of epoch {self.epoch + 1} had a finite gradient; "
                "lower optimiser.lr, set optimiser.clip, or look at the input"
            )
        self.epoch += 1
        seconds = time.perf_counter() - started
        means = torch.stack(list(totals.values())) / (self.steps - skipped)
        speed = torch.tensor(images / seconds, device=device)
        if self.world > 1:
            all_reduce(means, ReduceOp.SUM)
            all_reduce(speed, ReduceOp.SUM)
            means /= self.world
        return _Figures(
            losses=dict(zip(totals, means.tolist(), strict=True)),
            images_per_second=speed.item(),
            waiting=waited / seconds,
            skipped=skipped,
            lr=rate * experiment.optimiser.lr,
            seconds=seconds,
        )

    def _step(self, batch: Batch, rate: float) -> dict[str, Tensor] | None:
        """Return the losses of one step, or None where its gradient was not finite."""
        settings = self.experiment.optimiser
        for group in self.optimiser.param_groups:
            group["lr"] = rate * settings.lr
        # A batch that yields NaN also spoils the running statistics of the normalisations.
        buffers = list(self.method.buffers())
        kept = [buffer.clone() for buffer in buffers]
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.experiment.precision == "bf16"
        ):
            losses: dict[str, Tensor] = self.parallel(batch)
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        norm = nn.utils.clip_grad_norm_(self.method.parameters(), settings.clip or math.inf)
        # After DDP's reduction the norm is one on all workers, and so is the decision.
        if not norm.isfinite():
            log.warning("epoch %d: a step's gradient is not finite; skipped", self.epoch + 1)
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)
            return None
        self.optimiser.step()
        if self.average:
            self.average.update_parameters(self.method)
        return {name: loss.detach() for name, loss in losses.items()}

    def save(self, folder: Path) -> None:
        """Write everything needed to go on from here, as tensors and a position."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"method/{name}": value for name, value in self.method.state_dict().items()}
        if self.average:
            tensors |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        for name, parameter in self.method.named_parameters():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser/{name}/{key}"] = torch.as_tensor(value)
        save_file({name: plain(value) for name, value in tensors.items()}, folder / STATE)
        position = {"epoch": self.epoch, "experiment": self.experiment.fingerprint}
        (folder / POSITION).write_text(json.dumps(position) + "\n")

    def load(self, folder: Path) -> None:
        """Take up the state that `save` wrote; `ValueError` where it is another run's."""
        try:
            position = json.loads((folder / POSITION).read_text())
            tensors = load_file(folder / STATE)
        except (ValueError, SafetensorError) as error:
            raise ValueError(f"{folder} is a broken state ({error}); remove it") from None
        if position["experiment"] != self.experiment.fingerprint:
            raise ValueError(
                f"{folder} is the state of experiment {position['experiment']}, not of "
                f"{self.experiment.fingerprint}; give the run another name"
            )

        def under(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.method.load_state_dict(under("method/"))
        if self.average:
            self.average.load_state_dict(under("average/"))
        for name, parameter in self.method.named_parameters():
            values = under(f"optimiser/{name}/")
            if values:
                self.optimiser.state[parameter] = {
                    # The step count stays on the CPU, where the optimiser keeps it.
                    key: value if key == "step" else value.to(parameter)
                    for key, value in values.items()
                }
        self.epoch = int(position["epoch"])
