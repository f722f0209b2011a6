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
import torch
from PIL import Image

from rayreid.adabn import adapted_norms
from rayreid.batch import Domain
from rayreid.checkpoint import load_trained
from rayreid.data.loading import Pixels
from rayreid.data.sources import domain_name
from rayreid.data.synthetic import contact_sheet
from rayreid.evaluate import open_target, rank_by_histogram
from rayreid.experiment import Experiment, compose
from rayreid.feed import TargetCrops
from rayreid.gallery import Target
from rayreid.quickstart.sizes import (
    ADABN,
    ADAPTED_TO,
    ADAPTING,
    FEW,
    HISTOGRAM,
    OWN,
    SHARED,
    SMALL,
    SOURCES,
    SPACES,
    STUDIES,
    UNSEEN,
    WORKERS,
)
from rayreid.ranking.metrics import Ranking
from rayreid.report import ranked_lists, table
from rayreid.run import Run, open_sources
from rayreid.search_space import parse_space
from rayreid.serve import start, stop
from rayreid.serve.settings import service_of
from rayreid.session import session
from rayreid.settings import checked, dotted, unknown
from rayreid.train import learn_side_by_side, train_on_ray
from rayreid.tune import StudySettings, study

Teller = Callable[[str], None]


@dataclass(frozen=True)
class Quickstart:
    """What the quickstart came to."""

    folder: Path
    table: str


def quickstart(folder: Path, tell: Teller, method: str = "gmn") -> Quickstart:
    """Run study, training, ranking and serving on the built-in domains; write ``folder``.

    The study tunes ``method``; all methods and controls are trained and ranked.

    Raises `ValueError` where the folder is in use, or there is no study of the method.
    """
    if method not in SPACES:
        raise unknown("method to tune here,", method, SPACES)
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
            compose(method, SMALL, OWN[method], FEW),
            parse_space(SPACES[method]),
            folder / "study",
            checked(StudySettings, STUDIES[method]),
            tell=tell,
        )
        best.save(folder / "best.yaml")
        sources = open_sources(best)
        runs = _train_all(best, sources, folder, tell)
        text = _rank_all(runs, method, sources, folder, tell)
        _serve(runs[f"{method}, tuned"], tell)
    (folder / "README.md").write_text(text)
    return Quickstart(folder, text)


def _experiments(best: Experiment) -> dict[str, Experiment]:
    """Return the tuned experiment, the other methods and the controls, alike in all they share."""
    shared = {k: v for k, v in dotted(best.tree()).items() if k.startswith(SHARED)}
    named: dict[str, tuple[str, Mapping[str, object]]] = {
        "baseline": ("baseline", {}),
        "baseline, normalised": ("baseline", {"trunk.normalise": "image"}),
        "baseline, IBN-a": ("baseline", {"trunk.ibn": "a"}),
    }
    named |= {name: (name, {}) for name in ("gmn", "snr", "qaconv_ms") if name != best.method}
    named["daam"] = ("daam", {"target": ADAPTED_TO})
    others = {
        name: compose(method, SMALL, OWN[method], shared, changes)
        for name, (method, changes) in named.items()
    }
    return {f"{best.method}, tuned": best, **others}


def _train_all(
    best: Experiment, sources: Sequence[Domain], folder: Path, tell: Teller
) -> dict[str, Run]:
    """Train the best setting with DDP workers, then all others side by side, on all sources."""
    runs = {
        name: Run(folder / name.replace(", ", "-"), experiment)
        for name, experiment in _experiments(best).items()
    }
    names = {run.folder: name for name, run in runs.items()}

    def listener(run: Run) -> Callable[[Mapping[str, float]], None]:
        def listen(metrics: Mapping[str, float]) -> None:
            loss = sum(value for key, value in metrics.items() if key.startswith("loss/"))
            epoch = f"epoch {metrics['epoch']}/{SMALL['epochs']}"
            speed = metrics["images_per_second"]
            tell(f"{names[run.folder]}: {epoch}, loss {loss:.2f}, {speed:.0f} images/s")

        return listen

    tuned, *others = runs.values()
    train_on_ray(tuned, WORKERS, listener(tuned), sources=sources)
    # The longest first, so that none is waited for alone at the end.
    learn_side_by_side(others[::-1], sources, listener)
    return runs


def _rank_all(
    runs: Mapping[str, Run], tuned: str, sources: Sequence[Domain], folder: Path, tell: Teller
) -> str:
    """Rank every method on the sources' unseen people and on the unseen domains; return a page."""
    methods = {name: load_trained(run.best) for name, run in runs.items()}
    some = next(iter(runs.values())).experiment
    results: dict[str, dict[str, Ranking]] = {name: {} for name in (*methods, HISTOGRAM, ADABN)}
    for domain in chain(sources, (open_target(target, some) for target in UNSEEN)):
        target = Target(domain, some.loading)
        for name, trained in methods.items():
            results[name][domain.name] = target.rank(trained.method)
        results[HISTOGRAM][domain.name] = rank_by_histogram(domain, some.loading)
        latest = ", ".join(
            f"{name} {ranks[domain.name].map:.3f}"
            for name, ranks in results.items()
            if domain.name in ranks
        )
        tell(f"mAP on {domain.name}: {latest}")
        if domain.name == domain_name(ADAPTED_TO):
            scores = target.scores(methods[f"{tuned}, tuned"].method)
            picture = ranked_lists(scores, domain.query, domain.gallery, some.loading)
            picture.save(folder / "ranked_lists.png")
            crops = TargetCrops.of(domain.train, some.loading, torch.device("cpu"))
            adapted = adapted_norms(methods["baseline"].method, crops)
            results[ADABN][domain.name] = target.rank(adapted)
    return _page(results, [source.name for source in sources], tuned)


def _page(results: Mapping[str, Mapping[str, Ranking]], sources: Sequence[str], tuned: str) -> str:
    """Return the tables: domain generalisation, and apart from it what adapts to a target."""
    rows = []
    for name, ranks in results.items():
        if name in ADAPTING:
            continue
        seen = [ranks[source] for source in sources]
        unseen = [rank for domain, rank in ranks.items() if domain not in sources]
        rows.append(
            (
                name,
                mean(r.map for r in seen),
                mean(r.rank1 for r in seen),
                f"{mean(r.map for r in unseen):.3f} +- {stdev(r.map for r in unseen):.3f}",
                mean(r.rank1 for r in unseen),
            )
        )
    header = ("method", "seen mAP", "seen R1", "unseen mAP (+- sd)", "unseen R1")
    there = domain_name(ADAPTED_TO)
    adapting = [
        (name, results[name][there].map, results[name][there].rank1)
        for name in ("baseline", *ADAPTING)
    ]
    return (
        f"# Quickstart\n\n{table(header, rows)}\n\n"
        f"One seed; not a benchmark. Seen: new people of the {len(sources)} source domains. "
        f"Unseen: {len(UNSEEN)} domains sampled from the law of drawn domains; +- is the standard "
        "deviation over them. All learnt the same number of steps, of as many crops, with the "
        f"optimiser settings of the study's best trial; only {tuned}'s own settings were searched "
        f"besides, and it alone learnt on {WORKERS} workers.\n\n"
        f"Adapting is another task, with unlabelled crops of {there} at hand; ranked there alone:"
        f"\n\n{table(('method', 'mAP', 'R1'), adapting)}\n\n"
        f"Files: best.yaml (`rayreid train {tuned} --from best.yaml`), study/report.html, "
        f"ranked_lists.png ({tuned} on {there}), contact_sheet.png.\n"
    )


def _serve(run: Run, tell: Teller) -> None:
    """Serve a run, ask it over HTTP for the scores of a few pairs, and stop it."""
    domain = open_target(UNSEEN[0], run.experiment)
    pairs, images, same = _some_pairs(domain, run.experiment)
    url = start(service_of([run.folder], port=free_port()))
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
