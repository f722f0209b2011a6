"""A run's folder: what a training run leaves, and what can be read again."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from rayreid.batch import Domain
from rayreid.checkpoint import CARD, EXPERIMENT, load_trained, save_trained
from rayreid.data.loading import decoded, fingerprint
from rayreid.data.sources import open_source
from rayreid.experiment import Experiment, load_experiment
from rayreid.gallery import Target
from rayreid.learn import Learner, learn
from rayreid.ranking.metrics import Ranking

METRICS, RANKING = "metrics.jsonl", "ranking.json"

Listener = Callable[[Mapping[str, float]], None]
"""What is told the metrics of each epoch."""


class Run:
    """The folder ``results/<name>`` of one experiment.

    experiment.yaml (complete), metrics.jsonl (a line an epoch), ranking.json (metrics and
    what they were obtained with), best/ (what evaluate and serve load), and the state to
    resume from. Raises `ValueError` where the folder belongs to another experiment.
    """

    def __init__(self, folder: Path, experiment: Experiment):
        self.folder = folder.absolute()
        saved = self.folder / EXPERIMENT
        if saved.is_file() and load_experiment(saved) != experiment:
            raise ValueError(
                f"{self.folder} holds a run of other settings; give this one another --name, "
                "or remove the folder"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        experiment.save(saved)
        self.experiment = experiment

    @property
    def best(self) -> Path:
        """Return the folder of the trained method."""
        return self.folder / "best"

    @property
    def finished(self) -> bool:
        """Return whether the trained method is there."""
        return (self.best / CARD).is_file()

    def log(self, metrics: Mapping[str, object]) -> None:
        """Append an epoch's metrics."""
        with (self.folder / METRICS).open("a") as lines:
            lines.write(json.dumps(dict(metrics)) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return the metrics an epoch; of an epoch that was repeated after a loss, the last."""
        path = self.folder / METRICS
        lines = path.read_text().splitlines() if path.is_file() else []
        by_epoch = {row["epoch"]: row for row in map(json.loads, lines)}
        return [by_epoch[epoch] for epoch in sorted(by_epoch)]

    def ranking(self) -> dict[str, Any]:
        """Return ranking.json: metrics, and what they were obtained with."""
        recorded: dict[str, Any] = json.loads((self.folder / RANKING).read_text())
        return recorded


def open_sources(experiment: Experiment) -> list[Domain]:
    """Return the domains of an experiment's sources, decoded; errors as their readers."""
    return [
        decoded(open_source(source, experiment.loading, experiment.synthetic), experiment.loading)
        for source in experiment.sources
    ]


def learn_here(run: Run, sources: Sequence[Domain], listen: Listener) -> None:
    """Learn a run in this process, going on where an interrupted one stopped.

    Errors as `rayreid.learn.learn`.
    """
    if run.finished:
        return
    states = run.folder / "states"
    started = time.perf_counter()
    last = max(states.glob("epoch_*"), default=None)
    for epoch in learn(run.experiment, sources, state=last, device=best_device()):
        last = _keep(epoch.learner, states)
        run.log(epoch.metrics())
        listen(epoch.metrics())
    assert last is not None
    finish(run, last, sources, workers=0, seconds=round(time.perf_counter() - started, 1))


def save_epoch(learner: Learner, folder: Path) -> None:
    """Write the state to resume from, and beside it the method as it would be served."""
    learner.save(folder)
    weights = learner.averaged.state_dict()
    save_trained(folder / "trained", learner.experiment, learner.census, weights)


def _keep(learner: Learner, states: Path) -> Path:
    """Save the newest state, whole or not at all, then drop the older ones."""
    folder, draft = states / f"epoch_{learner.epoch:05d}", states / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    save_epoch(learner, draft)
    older = list(states.glob("epoch_*"))
    draft.rename(folder)
    for state in older:
        shutil.rmtree(state)
    return folder


def finish(run: Run, state: Path, sources: Sequence[Domain], **entries: object) -> None:
    """Make the method of the last state the run's best, and rank it on its own domains."""
    draft = run.folder / "best.draft"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(state / "trained", draft)
    draft.rename(run.best)
    trained = load_trained(run.best)
    method = trained.method.to(best_device())
    seen = {
        source.name: figures(Target(source, run.experiment.loading).rank(method))
        for source in sources
        if len(source.query) and len(source.gallery)
    }
    data = {source.name: fingerprint(source.train) for source in sources}
    recorded = circumstances(run.experiment) | {
        "fingerprint": trained.fingerprint,
        "device": device_name(),
        **entries,
        "data": data,
        "seen": seen,
    }
    write_json(run.folder / RANKING, recorded)


def keep_evaluation(folder: Path, target: str, method: Ranking, reference: Ranking) -> None:
    """Add a target's figures to the ranking.json of a run's folder, where there is one."""
    path = folder / RANKING
    if path.is_file():
        recorded = json.loads(path.read_text())
        found = {"method": figures(method), "colour histogram": figures(reference)}
        recorded["targets"] = recorded.get("targets", {}) | {target: found}
        write_json(path, recorded)


def best_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """Return what computes, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} thread(s)"


def circumstances(experiment: Experiment) -> dict[str, object]:
    """Return what a result was obtained with: code, versions, seed, time."""
    return {
        "method": experiment.method,
        "experiment": experiment.fingerprint,
        "seed": experiment.seed,
        "commit": commit(),
        "versions": {name: version(name) for name in ("rayreid", "torch", "timm", "numpy")},
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit() -> str | None:
    """Return the commit of the code in use, or None outside a git checkout."""
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or None


def figures(ranking: Ranking) -> dict[str, float]:
    """Return a ranking's headline figures by name."""
    return {
        "mAP": ranking.map,
        "rank1": ranking.cmc[0],
        "mINP": ranking.minp,
        "queries": ranking.queries,
        "unmatched": ranking.unmatched,
    }


def write_yaml(path: Path, value: object) -> None:
    """Write YAML in the order given."""
    path.write_text(yaml.safe_dump(value, sort_keys=False))


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old or the new file, never half of one."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(value, indent=2) + "\n")
    draft.replace(path)
