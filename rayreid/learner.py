"""Learner: all that a training run must remember between two epochs."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed import ReduceOp, all_reduce, broadcast, is_initialized
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rayreid.batch import Batch, Census, Crops, Domain
from rayreid.checkpoint import build, plain
from rayreid.experiment import Experiment
from rayreid.feed import Feed
from rayreid.method import Method
from rayreid.nn.compilation import compiled
from rayreid.nn.optimiser import clip_gradients, optimiser_of, rate_after
from rayreid.nn.trunk import has_depthwise

log = logging.getLogger(__name__)

STATE, POSITION = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Figures:
    """What an epoch came to, as `rayreid.learn.Epoch` says."""

    losses: dict[str, float]
    monitors: dict[str, float]
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
        target: Crops | None,
        *,
        rank: int,
        world: int,
        device: torch.device,
    ):
        self.experiment, self.world, self.device = experiment, world, device
        self.feed = Feed(experiment, sources, target, rank=rank, world=world, device=device)
        self.rank = rank
        self.method = build(experiment, self.feed.census)
        self.method = self.method.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parallel: nn.Module = self.method
        if world > 1:
            assert is_initialized(), "several workers need a process group"
            self.parallel = DistributedDataParallel(
                self.method, device_ids=[device] if device.type == "cuda" else None
            )
        if experiment.compile:
            self.parallel = compiled(self.parallel)
        if device.type == "cpu" and experiment.precision == "bf16" and has_depthwise(self.method):
            log.warning(
                "trunk %s has depthwise convolutions, which bf16 slows down on a CPU; "
                "try precision=fp32",
                experiment.trunk.name,
            )
        self.optimiser = optimiser_of(self.method, experiment.optimiser)
        self.highest = experiment.optimiser.lr * experiment.scaling.rate(
            experiment.sampling.identities, world
        )
        decay = experiment.optimiser.ema
        self.average = (
            AveragedModel(self.method, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
        )
        self.epoch = 0

    @property
    def census(self) -> Census:
        """Return who is in the training set."""
        return self.feed.census

    @property
    def averaged(self) -> Method:
        """Return the method to rank and to save: of averaged weights where they are kept."""
        return cast(Method, self.average.module) if self.average else self.method

    def advance(self) -> Figures:
        """Learn one epoch."""
        experiment, device, feed = self.experiment, self.device, self.feed
        seed = np.random.SeedSequence((experiment.seed, self.epoch, self.rank)).generate_state(2)
        views = torch.Generator().manual_seed(int(seed[0]))
        losses_seen, monitors_seen = _Means(), _Means()
        skipped, images, waited = 0, 0, 0.0
        rate = 0.0
        started = time.perf_counter()
        # Random numbers of an epoch follow from the seed alone: an interrupted run repeats them.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(seed[1]))
            self._share_buffers()
            self.method.start_epoch(self.epoch, feed.target)
            self.parallel.train()
            batches = feed.epoch(self.epoch, self.method)
            mark = time.perf_counter()
            for step, raw in enumerate(batches, self.epoch * feed.steps):
                waited += time.perf_counter() - mark
                rate = rate_after(experiment.optimiser, step / (feed.steps * experiment.epochs))
                batch = feed.batch(raw, views)
                losses = self.step(batch, rate)
                if losses is None:
                    skipped += 1
                else:
                    losses_seen.add(losses)
                    monitors_seen.add(self.method.monitors())
                images += len(batch.images)
                mark = time.perf_counter()
        if skipped == feed.steps:
            raise FloatingPointError(
                f"no step of epoch {self.epoch + 1} had a finite gradient; "
                "lower optimiser.lr, set optimiser.clip, or look at the input"
            )
        self.epoch += 1
        seconds = time.perf_counter() - started
        speed = torch.tensor(images / seconds, device=device)
        if self.world > 1:
            all_reduce(speed, ReduceOp.SUM)
        return Figures(
            losses=losses_seen.over(self.world),
            monitors=monitors_seen.over(self.world),
            images_per_second=speed.item(),
            waiting=waited / seconds,
            skipped=skipped,
            lr=rate * self.highest,
            seconds=seconds,
        )

    def _share_buffers(self) -> None:
        """Give all ranks the statistics of rank 0, so that they find the same pseudo labels."""
        if self.world > 1:
            for buffer in self.method.buffers():
                broadcast(buffer, 0)

    def step(self, batch: Batch, rate: float) -> dict[str, Tensor] | None:
        """Learn from a batch at a share ``rate`` of the highest learning rate.

        Return the losses, or None where the gradient was not finite and nothing was learnt.
        """
        settings = self.experiment.optimiser
        for group in self.optimiser.param_groups:
            group["lr"] = rate * self.highest * group["rate"]
        # A batch that yields NaN also spoils the running statistics of the normalisations.
        buffers = list(self.method.buffers())
        kept = [buffer.clone() for buffer in buffers]
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.experiment.precision == "bf16"
        ):
            losses: dict[str, Tensor] = self.parallel(batch)
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        norm = clip_gradients(self.optimiser, settings)
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
                    # In the parameter's layout, which a fused step takes for granted.
                    key: value.to(parameter.device)
                    if key == "step"
                    else torch.empty_like(parameter).copy_(value)
                    for key, value in values.items()
                }
        self.epoch = int(position["epoch"])


class _Means:
    """Means of named scalars over the steps of an epoch, kept on their device."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, values: dict[str, Tensor]) -> None:
        self.totals = {name: self.totals.get(name, 0) + value for name, value in values.items()}
        self.steps += 1

    def over(self, world: int) -> dict[str, float]:
        """Return the means, over all workers."""
        if not self.totals:
            return {}
        means = torch.stack(list(self.totals.values())).float() / self.steps
        if world > 1:
            all_reduce(means, ReduceOp.SUM)
            means /= world
        return dict(zip(self.totals, means.tolist(), strict=True))
