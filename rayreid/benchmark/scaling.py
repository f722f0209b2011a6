"""More workers: images a second, and how much of a step the exchange of gradients takes.

Steps are measured on the cluster at hand, by runs of Ray Train, and what the exchange takes of one
in processes of this machine without Ray, which can be told to leave it out.
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
from rayreid.run import Run, commit, open_sources, write_json
from rayreid.session import nodes, session
from rayreid.train import train_on_ray

STEPS = 4
"""Of a round; each is timed with the exchange and without."""


@dataclass(frozen=True)
class Case:
    """So many workers with so many threads each."""

    workers: int
    threads: int


EPOCHS = 4
"""Of `STEPS` steps a round, that a run of Ray Train learns after the first, which warms up."""


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

    Ray Train's are those of the cluster that this shell is attached to, or a private one. ``to``
    receives the table as README.md, and the figures as scaling.json.
    """
    rows: list[tuple[object, ...]] = []
    kept: dict[str, dict[str, float]] = {}
    with session(cpus=2):
        there = nodes()
        alone = 0.0
        for workers in (1, 2):
            tell(f"{workers} worker(s) of Ray Train, on {there} node(s)")
            rate = on_ray(workers, case_of(trunk), rounds)
            alone = alone or rate
            where = f"Ray Train, {there} node(s)"
            rows.append((where, workers, 1, f"{rate:.0f}", f"{rate / alone:.2f}", ""))
            kept[f"ray {workers}x1"] = {"images_per_second": rate, "nodes": there}
    first = 0.0
    for case in (Case(1, 1), Case(2, 1), Case(1, 2)):
        tell(f"{case.workers} worker(s) of {case.threads} thread(s)")
        speed = measured(case, case_of(trunk), rounds)
        rate = speed.images_per_second
        first = first or rate
        exchange = f"{speed.exchange:.0%}" if case.workers > 1 else ""
        rows.append(
            (
                "processes",
                case.workers,
                case.threads,
                f"{rate:.0f}",
                f"{rate / first:.2f}",
                exchange,
            )
        )
        kept[f"{case.workers}x{case.threads}"] = {
            "images_per_second": rate,
            "exchange": speed.exchange,
        }
    text = (
        f"{machine()}. baseline, {trunk}, 128x64, bf16, 64 crops a worker: images a second of all "
        f"workers, medians of {rounds} rounds of {STEPS} steps; of Ray Train, whose workers a "
        f"driver listens to, of {EPOCHS} epochs of as many steps. All workers are on this machine "
        "and exchange gradients over loopback: its cores, caches and memory are shared, a network "
        "is not there, so these are figures of two processes on two cores, not of two machines.\n\n"
        + table(("", "workers", "threads each", "images/s", "times one", "in exchange"), rows)
        + "\n"
    )
    to.mkdir(parents=True, exist_ok=True)
    write_json(to / "scaling.json", {"commit": commit(), "machine": machine(), "cases": kept})
    (to / "README.md").write_text(text)
    return text


def on_ray(workers: int, experiment: Experiment, rounds: int) -> float:
    """Return the images a second of a run's workers, the median of its epochs but the first."""
    steps = {"epochs": 1 + EPOCHS, "steps_per_epoch": rounds * STEPS}
    speeds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", experiment.replaced(steps))
        train_on_ray(
            run,
            workers,
            lambda row: speeds.append(row["images_per_second"]),
            gpus=False,
            placement="spread",
        )
    return median(speeds[1:])


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
