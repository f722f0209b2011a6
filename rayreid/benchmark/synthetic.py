"""The drawn domains: how fast they are drawn, and how hard they are."""

import time
from collections.abc import Callable
from functools import partial
from statistics import mean, stdev

import torch

from rayreid.data.synthetic import GENERATOR_VERSION, NAMED_STYLES, draw_crops
from rayreid.evaluate import open_target, rank_by_histogram
from rayreid.experiment import compose
from rayreid.gallery import Target
from rayreid.learn import learn
from rayreid.quickstart.sizes import OWN, SMALL, SOURCES, UNSEEN
from rayreid.report import table
from rayreid.run import circumstances, open_sources

STEPS = 300


def synthetic(seeds: int, tell: Callable[[str], None]) -> str:
    """Measure the drawn domains: crops drawn a second, and how hard they are.

    The baseline learns the quickstart's sources for 300 steps, once a seed, and ranks new
    people of theirs and every other domain; the colour histogram ranks the same. Returns a
    page with means and standard deviations over seeds. One thread throughout.
    """
    torch.set_num_threads(1)
    speeds = []
    for height in (64, 128, 256):
        draw = partial(
            draw_crops, "plaza-noon", cameras=4, crops=4, height=height, width=height // 2
        )
        draw(people=range(4))
        people = 160 * 64**2 // height**2
        started = time.perf_counter()
        drawn = draw(people=range(people))
        speed = len(drawn) / (time.perf_counter() - started)
        speeds.append((f"{height}x{height // 2}", f"{speed:.0f}"))
        tell(f"drew {len(drawn)} crops at {height}x{height // 2}: {speed:.0f} a second")
    other = tuple(f"synthetic={name}" for name in NAMED_STYLES)
    unseen = tuple(target for target in (*other, *UNSEEN) if target not in SOURCES)
    reached: dict[str, list[float]] = {target: [] for target in (*SOURCES, *unseen)}
    colours: dict[str, list[float]] = {target: [] for target in reached}
    length = {"epochs": 10, "steps_per_epoch": STEPS // 10}
    for seed in range(seeds):
        experiment = compose(
            "baseline", SMALL, OWN["baseline"], length, {"seed": seed, "synthetic.seed": seed}
        )
        domains = [open_target(target, experiment) for target in reached]
        targets = [Target(domain, experiment.loading) for domain in domains]
        *_, last = learn(
            experiment, open_sources(experiment), targets=targets, rank_every=experiment.epochs
        )
        for target, domain in zip(reached, domains, strict=True):
            reached[target].append(last.rankings[domain.name].map)
            colours[target].append(rank_by_histogram(domain, experiment.loading).map)
        tell(f"seed {seed}: {', '.join(f'{t} {v[-1]:.3f}' for t, v in reached.items())}")
    rows = [
        (
            target.partition("=")[2],
            "own" if target in SOURCES else "unseen",
            spread(reached[target]),
            spread(colours[target]),
        )
        for target in reached
    ]
    for name, group in (("mean of own", SOURCES), ("mean of unseen", unseen)):
        by_seed = [[mean(m[t][s] for t in group) for s in range(seeds)] for m in (reached, colours)]
        rows.append((name, "", spread(by_seed[0]), spread(by_seed[1])))
    made_with = circumstances(experiment)
    return (
        f"Generator version {GENERATOR_VERSION}, {seeds} seed(s), {STEPS} steps, one thread; "
        f"{made_with['versions']}\n\n"
        + table(("size", "crops drawn a second"), speeds)
        + "\n\n"
        + table(("domain", "", "baseline mAP", "colour histogram mAP"), rows)
    )


def spread(values: list[float]) -> str:
    """Return mean and standard deviation as text."""
    deviation = f" +- {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{deviation}"
