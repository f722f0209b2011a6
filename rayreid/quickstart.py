"""The whole path in one sitting, on drawn people: study, training, ranking, serving."""

import base64
import io
import json
import logging
import socket
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from PIL import Image

from rayreid.batch import Domain
from rayreid.checkpoint import load_trained
from rayreid.data.loading import Pixels
from rayreid.data.sources import domain_name
from rayreid.data.synthetic import contact_sheet
from rayreid.evaluate import open_target, rank_by_histogram
from rayreid.experiment import Experiment, compose
from rayreid.gallery import Target
from rayreid.ranking.metrics import Ranking
from rayreid.report import ranked_lists, table
from rayreid.run import Run, open_sources
from rayreid.search_space import parse_space
from rayreid.serve import start, stop
from rayreid.session import session
from rayreid.settings import dotted
from rayreid.train import train_on_ray
from rayreid.tune import StudySettings, study

SOURCES = ("synthetic=plaza-noon", "synthetic=subway", "synthetic=snow")
"""Three named domains to learn from."""
UNSEEN = tuple(f"synthetic=law-{seed}" for seed in range(101, 109))
"""Eight domains drawn from the law of domains: folds vary more than seeds, so many are ranked."""
SMALL: Mapping[str, object] = {
    "sources": SOURCES,
    "trunk.name": "test_resnet",
    "trunk.weights": "none",
    "trunk.stride_one_stages": 2,
    "loading.height": 64,
    "loading.width": 32,
    "sampling.identities": 6,
    "optimiser.name": "adamw",
    "optimiser.lr": 5e-3,
    "optimiser.weight_decay": 1e-3,
    "optimiser.schedule": "one_cycle",
    "config.margin": 0.0,
    # Strong colour variation needs more steps than these to pay.
    "views.brightness": 0.0,
    "views.contrast": 0.0,
    "epochs": 5,
    "steps_per_epoch": 40,
}
"""What two cores learn in seconds: a 0.4 M-parameter trunk on 64x32 crops, from scratch."""
GMN_SMALL: Mapping[str, object] = {"config.hidden": 128, "config.dropout_warmup_epochs": 2}
SPACE = {
    "config.dropout_rate": {"float": {"low": 0.0, "high": 0.7}},
    "config.dropout_site": {
        "categorical": {"choices": ["pair", "instance_shared", "instance_independent", "trunk"]}
    },
    "config.dropout_warmup_epochs": {"int": {"low": 0, "high": 4}},
    "config.pair_centre_weight": {"float": {"low": 1e-3, "high": 1.0, "log": True}},
    "config.pair_weight": {"float": {"low": 0.1, "high": 2.0, "log": True}},
    "optimiser.lr": {"float": {"low": 2e-3, "high": 1e-2, "log": True}},
}
SHARED = ("optimiser.",)
"""Settings that the baselines take over from the study, so that all three learn alike; they were
chosen for gmn, which favours it if anything."""
TRIALS, WORKERS = 8, 2

Teller = Callable[[str], None]


@dataclass(frozen=True)
class Quickstart:
    """What the quickstart came to."""

    folder: Path
    table: str


def quickstart(folder: Path, tell: Teller) -> Quickstart:
    """Run study, training, ranking and serving on the built-in domains; write ``folder``.

    Raises `ValueError` where the folder is in use.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one with --to")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; give another folder with --to, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet(
        [s.partition("=")[2] for s in (*SOURCES, *UNSEEN[:3])],
        people=8, cameras=4, height=128, width=64,
    )  # fmt: skip
    sheet.save(folder / "contact_sheet.png")
    tell(f"drew {folder / 'contact_sheet.png'}: people x cameras x domains")
    with session(cpus=WORKERS):
        tell("Ray is up")
        # Serve's own lines would break up ours.
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        best = study(
            compose("gmn", SMALL, GMN_SMALL),
            parse_space(SPACE),
            folder / "study",
            StudySettings(trials=TRIALS, grace_epochs=2),
            tell=tell,
        )
        best.save(folder / "best.yaml")
        sources = open_sources(best)
        runs = _train_all(best, sources, folder, tell)
        text = _rank_all(runs, sources, folder, tell)
        _serve(runs["gmn, tuned"], tell)
    (folder / "README.md").write_text(text)
    return Quickstart(folder, text)


def _train_all(
    best: Experiment, sources: Sequence[Domain], folder: Path, tell: Teller
) -> dict[str, Run]:
    """Train the best setting and the two controls, alike, on all sources with DDP workers."""
    shared = {k: v for k, v in dotted(best.tree()).items() if k.startswith(SHARED)}
    experiments = {
        "gmn, tuned": best,
        "baseline": compose("baseline", SMALL, shared),
        "baseline + per-image colour normalisation": compose(
            "baseline", SMALL, shared, {"trunk.normalise": "image"}
        ),
    }
    runs = {}
    for (name, experiment), place in zip(
        experiments.items(), ("gmn", "baseline", "control"), strict=True
    ):
        tell(f"training {name} on {len(SOURCES)} domains with {WORKERS} workers")

        def listen(metrics: Mapping[str, float], name: str = name) -> None:
            loss = sum(value for key, value in metrics.items() if key.startswith("loss/"))
            speed = metrics["images_per_second"]
            epoch, epochs = metrics["epoch"], SMALL["epochs"]
            tell(f"{name}: epoch {epoch}/{epochs}, loss {loss:.2f}, {speed:.0f} images/s")

        runs[name] = Run(folder / place, experiment)
        train_on_ray(runs[name], WORKERS, listen, sources=sources)
    return runs


def _rank_all(
    runs: Mapping[str, Run], sources: Sequence[Domain], folder: Path, tell: Teller
) -> str:
    """Rank every method on the sources' unseen people and on the unseen domains; return a page."""
    methods = {name: load_trained(run.best) for name, run in runs.items()}
    some = next(iter(runs.values())).experiment
    results: dict[str, list[Ranking]] = {name: [] for name in (*methods, "colour histogram")}
    for domain in chain(sources, (open_target(target, some) for target in UNSEEN)):
        for name, trained in methods.items():
            results[name].append(Target(domain, some.loading).rank(trained.method))
        results["colour histogram"].append(rank_by_histogram(domain, some.loading))
        latest = ", ".join(f"{name} {ranks[-1].map:.3f}" for name, ranks in results.items())
        tell(f"mAP on {domain.name}: {latest}")
        if domain.name == domain_name(UNSEEN[0]):
            scores = Target(domain, some.loading).scores(methods["gmn, tuned"].method)
            picture = ranked_lists(scores, domain.query, domain.gallery, some.loading)
            picture.save(folder / "ranked_lists.png")
    rows = []
    for name, ranks in results.items():
        seen, unseen = ranks[: len(SOURCES)], ranks[len(SOURCES) :]
        spread = stdev(r.map for r in unseen)
        rows.append(
            (
                name,
                mean(r.map for r in seen),
                mean(r.rank1 for r in seen),
                f"{mean(r.map for r in unseen):.3f} +- {spread:.3f}",
                mean(r.rank1 for r in unseen),
            )
        )
    header = ("method", "seen mAP", "seen R1", "unseen mAP (+- sd)", "unseen R1")
    return (
        f"# Quickstart\n\n{table(header, rows)}\n\n"
        f"One seed; not a benchmark. Seen: new people of the {len(SOURCES)} source domains. "
        f"Unseen: {len(UNSEEN)} domains sampled from the law of drawn domains; +- is the standard "
        "deviation over them. All three models learnt the same number of steps with the optimiser "
        "settings of the study's best trial; only gmn's own settings were searched besides.\n\n"
        "Files: best.yaml (`rayreid train gmn --from best.yaml`), study/trials.parquet, "
        "ranked_lists.png (gmn on the first unseen domain), contact_sheet.png.\n"
    )


def _serve(run: Run, tell: Teller) -> None:
    """Serve a run, ask it over HTTP for the scores of a few pairs, and stop it."""
    domain = open_target(UNSEEN[0], run.experiment)
    pairs, images, same = _some_pairs(domain, run.experiment)
    url = start(run.folder, port=free_port())
    tell(f"serving {run.folder.name} at {url}")
    try:
        body = json.dumps({"images": images, "pairs": pairs}).encode()
        request = urllib.request.Request(
            f"{url}/v1/match/pairs", body, {"Content-Type": "application/json"}
        )
        asked = time.perf_counter()
        # Past any proxy that the environment names: this is our own loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            scores = json.load(answer)["scores"]
        milliseconds = (time.perf_counter() - asked) * 1e3
    finally:
        stop()
    for truth in (True, False):
        chosen = [f"{s:.2f}" for s, t in zip(scores, same, strict=True) if t is truth]
        tell(f"scores of {'one person' if truth else 'two people'}: {', '.join(chosen)}")
    tell(f"{len(scores)} pairs of {len(images)} images matched over HTTP in {milliseconds:.0f} ms")


def _some_pairs(
    domain: Domain, experiment: Experiment, people: int = 4
) -> tuple[list[list[int]], list[str], list[bool]]:
    """Return pairs of a query with a gallery crop of the same and of the next person."""
    chosen = np.unique(domain.query.identities)[:people]
    crops: list[np.ndarray] = []
    for part in (domain.query, domain.gallery):
        pixels = Pixels(part.images, experiment.loading)
        # The query is seen by the first camera, the gallery crop by the last.
        where = part.cameras == (1 if part is domain.query else part.cameras.max())
        crops += [pixels[np.flatnonzero(where & (part.identities == who))[:1]][0] for who in chosen]
    pairs = [[i, people + i] for i in range(people)]
    pairs += [[i, people + (i + 1) % people] for i in range(people)]
    return pairs, [_png(crop) for crop in crops], [True] * people + [False] * people


def _png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def free_port() -> int:
    """Return a port of the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
