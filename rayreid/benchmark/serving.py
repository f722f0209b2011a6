"""What the service makes of a model: beside the model called directly, and under too much load."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from rayreid.batch import Census
from rayreid.benchmark.data import machine
from rayreid.benchmark.load import arrivals, closed_loop, elsewhere, open_loop
from rayreid.benchmark.processes import serving as serving_processes
from rayreid.benchmark.requests import FEW, IMAGES, SLOW, drawn_crops, pairs_of, requests
from rayreid.benchmark.serving_page import (
    BATCHES,
    CLIENTS,
    FEW_CLIENTS,
    INPUTS,
    LARGE,
    PIXELS,
    Round,
    Served,
    Way,
    draw,
    figures,
    page,
)
from rayreid.checkpoint import build, load_trained, save_trained
from rayreid.data.decoding import decode_bytes
from rayreid.experiment import compose
from rayreid.quickstart.sizes import OWN, SMALL
from rayreid.run import commit
from rayreid.settings import FailureError

LOADS = {"half": 0.5, "saturation": 1.0, "twice": 2.0}
"""Requests that arrive, as a share of those that could be answered."""

LONGER = 2
"""Times the seconds for which twice what can be answered arrives: the queue has to fill first."""

FEW_PLACES: Mapping[str, int] = {"admitted": 16, "waiting": 8, "matching": 16}
"""Limits of a service whose model is slow: what waits behind 24 requests waits for seconds."""

SIZES: Mapping[str, Mapping[str, object]] = {
    "quickstart": {**SMALL, **OWN["gmn"]},
    "mobilenet": {
        "trunk.name": "mobilenetv3_small_100",
        "trunk.weights": "none",
        "trunk.stride_one_stages": 0,
        "sources": SMALL["sources"],
    },
    "resnet50": {"trunk.name": "resnet50", "trunk.weights": "none", "sources": SMALL["sources"]},
}
"""Models of the quickstart's size (64x32), of the papers' (256x128), and of the papers' input with
the smallest trunk that anybody would use; with random weights."""

ROUNDS = 5
"""Times that the model directly and the service are measured, in turn: a machine's speed drifts."""

Tell = Callable[[str], None]


def serving(
    to: Path,
    tell: Tell,
    *,
    run: Path | None = None,
    sizes: Sequence[str] = tuple(SIZES),
    seconds: float = 10.0,
    port: int = 8765,
) -> str:
    """Measure the service of a run, or of untrained models of some `SIZES`; return a page.

    Each load lasts ``seconds``. Asked by another process on the same machine: the cores that this
    takes are taken from the service. Page, figures and plots go to ``to``.
    """
    others = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        runs = [run] if run is not None else [untrained(name, Path(folder)) for name in sizes]
        measured = [_measured(one, seconds, port, tell) for one in runs]
    to.mkdir(parents=True, exist_ok=True)
    found = {
        "machine": machine(),
        "cores": len(os.sched_getaffinity(0)),
        "commit": commit(),
        "seconds": seconds,
        "others_on_the_machine": round(others, 1),
        "models": {one.name: figures(one) for one in measured},
    }
    # Before any file is written, which would make a clean commit a dirty one.
    told = page(measured, seconds, others)
    (to / "load.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(measured, to / "load.svg")
    (to / "load.md").write_text(told + "\n")
    return told


def untrained(name: str, folder: Path) -> Path:
    """Return the run of a model of one of `SIZES`, as trained ones are kept."""
    experiment = compose("gmn", SIZES[name])
    census = Census({"somewhere": 100})
    torch.manual_seed(0)
    method = build(experiment, census)
    save_trained(folder / name / "best", experiment, census, method.state_dict())
    return folder / name


def _measured(run: Path, seconds: float, port: int, tell: Tell) -> Served:
    from rayreid.benchmark.bare_serve import PATH, bare
    from rayreid.serve import start, stop
    from rayreid.serve.settings import service_of
    from rayreid.session import session

    trained = load_trained(run)
    height, width = trained.experiment.loading.height, trained.experiment.loading.width
    crops = drawn_crops(height, width)
    cores = len(os.sched_getaffinity(0))
    ways = [Way(*way) for way in product(INPUTS, sorted({1, cores}), BATCHES)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes, session():
        tried = processes.submit(direct, run, crops, ways, seconds / 4).result()
        fastest = [
            max((w for w in ways if w.input == one), key=tried.__getitem__) for one in INPUTS
        ]
        tell(f"{run.name}: alone {tried}")
        slow = max(tried.values()) < SLOW
        images, limits = (FEW, FEW_PLACES) if slow else (IMAGES, {})
        asked, larger = requests(crops, images), requests(crops, LARGE * images)
        start(service_of([run], port=port, limits=dict(limits)))
        try:
            rounds, shares = [], {}
            with bare():
                nothing = requests(crops, images, PATH)
                for some in (asked, nothing):
                    elsewhere(closed_loop, port, some, 2, seconds / 5)  # to warm up
                for _ in range(ROUNDS):
                    alone = processes.submit(direct, run, crops, fastest, seconds / 2).result()
                    before = _seconds()
                    full = elsewhere(closed_loop, port, asked, CLIENTS, seconds)
                    shares = {
                        n: (s - before.get(n, 0)) / full.seconds for n, s in _seconds().items()
                    }
                    large = elsewhere(closed_loop, port, larger, FEW_CLIENTS, seconds)
                    passed = elsewhere(closed_loop, port, nothing, CLIENTS, seconds / 2)
                    if set(passed.counts()) != {"200"}:
                        raise FailureError(f"Ray Serve alone answered {passed.counts()}")
                    by_input = {way.input: rate for way, rate in alone.items()}
                    rounds.append(Round(by_input, full, large, passed))
                    rates = images * full.rate(), LARGE * images * large.rate()
                    tell(f"{run.name}: alone {alone}, served, and in large requests: {rates}")
            typical = float(np.median([one.served.rate() for one in rounds]))
            arriving = {name: share * typical for name, share in LOADS.items()}
            loads = {}
            for number, (name, rate) in enumerate(arriving.items()):
                due = arrivals(rate, seconds * (LONGER if LOADS[name] > 1 else 1), number)
                loads[name] = elsewhere(open_loop, port, asked, due)
                tell(f"{run.name}: {name} {loads[name].counts()} {loads[name].percentiles()}")
        finally:
            stop()
    return Served(run.name, height, width, images, fastest, tried, rounds, loads, arriving, shares)


def direct(
    run: Path, crops: Sequence[bytes], ways: Sequence[Way], seconds: float
) -> dict[Way, float]:
    """Return the images a second of a model that is called in a loop, in this process alone.

    It embeds and matches what the service does, a batch at a time: from JPEGs, decoded by the same
    thread before each batch, or from pixels that are there. Each way takes ``seconds``.
    """
    from rayreid.serve.pairs import Comparison, embed_distinct, score_together

    trained = load_trained(run)
    height, width = trained.experiment.loading.height, trained.experiment.loading.width

    def decoded(size: int) -> list[np.ndarray]:
        return [decode_bytes(crop, "crop", height, width) for crop in crops[:size]]

    def matched(pixels: Sequence[np.ndarray]) -> None:
        keys = [str(number) for number in range(len(pixels))]
        parts = [slice(start, start + IMAGES) for start in range(0, len(pixels), IMAGES)]
        embeddings = embed_distinct(trained.method, keys, pixels)
        asked = [Comparison(keys[part], embeddings[part], pairs_of(IMAGES)) for part in parts]
        score_together(trained.method, asked, free=64)

    def rate(way: Way) -> float:
        torch.set_num_threads(way.threads)
        ready = decoded(way.batch)
        matched(ready)
        started, calls = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            matched(ready if way.input == PIXELS else decoded(way.batch))
            calls += 1
        return way.batch * calls / (time.perf_counter() - started)

    return {way: rate(way) for way in ways}


def _seconds() -> dict[str, float]:
    """Return the seconds of a core that each of the service's processes has taken."""
    return {one.name.split("::")[1].split(".")[0]: one.seconds for one in serving_processes()}
