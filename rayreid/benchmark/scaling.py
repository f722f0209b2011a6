"""More workers: images a second, and how much of a step the exchange of gradients takes.

What a Ray Train worker runs, DDP over gloo, in processes of this machine without Ray, which would
only start them: what is measured is a step, not the start of a run.
"""

import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch.distributed import barrier, destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from rayreid.benchmark.data import machine
from rayreid.experiment import Experiment, compose
from rayreid.learner import Figures, Learner
from rayreid.report import table
from rayreid.run import commit, open_sources, write_json

STEPS = 6
"""Of a round; each is timed with the exchange and without."""


@dataclass(frozen=True)
class Case:
    """So many workers with so many threads each."""

    workers: int
    threads: int


@dataclass(frozen=True)
class Speed:
    """What a case came to."""

    images_per_second: float
    """Of all workers."""
    exchange: float
    """Share of a step that would be saved without the exchange of gradients."""


def case_of(trunk: str) -> Experiment:
    """Return what is learnt: the baseline on drawn crops of 128x64, 64 of them a worker."""
    return compose(
        "baseline",
        {"sources": ["synthetic=plaza-noon"], "synthetic.train_people": 80},
        {"trunk.name": trunk, "trunk.weights": "none", "sampling.identities": 16},
        {"sampling.crops": 4, "loading.height": 128, "loading.width": 64},
        {"epochs": 10_000, "steps_per_epoch": STEPS},
    )


def scaling(
    to: Path, tell: Callable[[str], None], *, trunk: str = "resnet18", rounds: int = 3
) -> str:
    """Measure one worker and two, and one with the threads of two; return the table.

    ``to`` receives it as README.md, and the figures as scaling.json.
    """
    rows, kept = [], {}
    first = 0.0
    for case in (Case(1, 1), Case(2, 1), Case(1, 2)):
        tell(f"{case.workers} worker(s) of {case.threads} thread(s)")
        speed = measured(case, case_of(trunk), rounds)
        first = first or speed.images_per_second
        times = speed.images_per_second / first
        exchange = f"{speed.exchange:.0%}" if case.workers > 1 else ""
        rows.append(
            (case.workers, case.threads, f"{speed.images_per_second:.0f}", f"{times:.2f}", exchange)
        )
        kept[f"{case.workers}x{case.threads}"] = {
            "images_per_second": speed.images_per_second,
            "exchange": speed.exchange,
        }
    text = (
        f"{machine()}. baseline, {trunk}, 128x64, bf16, 64 crops a worker: images a second of all "
        f"workers, medians of {rounds} rounds of {STEPS} steps. Both workers are on this machine "
        "and exchange gradients over loopback: its cores, caches and memory are shared, a network "
        "is not there, so these are figures of two processes on two cores, not of two nodes.\n\n"
        + table(("workers", "threads each", "images/s", "times one", "in exchange"), rows)
        + "\n"
    )
    to.mkdir(parents=True, exist_ok=True)
    write_json(to / "scaling.json", {"commit": commit(), "machine": machine(), "cases": kept})
    (to / "README.md").write_text(text)
    return text


def measured(case: Case, experiment: Experiment, rounds: int) -> Speed:
    """Run a case in processes of its own."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as meeting, context.Pool(case.workers) as pool:
        found = pool.starmap(
            worker,
            [
                (rank, case, experiment.tree(), rounds, f"file://{meeting}/store")
                for rank in range(case.workers)
            ],
            chunksize=1,
        )
    return found[0]


def worker(rank: int, case: Case, tree: dict[str, object], rounds: int, meeting: str) -> Speed:
    """Time steps with the exchange and without, in turn, as one of the workers."""
    torch.set_num_threads(case.threads)
    experiment = Experiment.model_validate(tree)
    world = case.workers
    if world > 1:
        init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    try:
        sources = open_sources(experiment, parts=["train"])
        cpu = torch.device("cpu")
        learner = Learner(experiment, sources, None, rank=rank, world=world, device=cpu)
        learner.advance()
        seconds: list[float] = []
        alone: list[float] = []
        speeds: list[float] = []
        for _ in range(rounds):
            figures = _together(learner, world)
            seconds.append(figures.seconds)
            speeds.append(figures.images_per_second)
            if isinstance(learner.parallel, DistributedDataParallel):
                with learner.parallel.no_sync():
                    alone.append(_together(learner, world).seconds)
        exchange = max(0.0, 1 - median(alone) / median(seconds)) if alone else 0.0
        return Speed(median(speeds), exchange)
    finally:
        if world > 1:
            destroy_process_group()


def _together(learner: Learner, world: int) -> Figures:
    """Learn a round, begun by all workers at once."""
    if world > 1:
        barrier()
    return learner.advance()
