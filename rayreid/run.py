"""A run's folder: what a training run leaves, and what can be read again."""

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

import torch
import yaml

from rayreid.batch import Crops, Domain
from rayreid.checkpoint import CARD, EXPERIMENT, load_trained
from rayreid.data.loading import decoded
from rayreid.data.sources import open_source
from rayreid.data.storage import Storage
from rayreid.data.synthetic import GENERATOR_VERSION
from rayreid.experiment import Experiment, load_experiment
from rayreid.gallery import Target
from rayreid.learn import learn
from rayreid.method import Method
from rayreid.ranking.summary import figures
from rayreid.states import METRICS, Row, keep_state, newest_whole, rows_of, told_if_full

log = logging.getLogger(__name__)

RANKING = "ranking.json"
STATES = "states"
PACKAGES = ("rayreid", "torch", "timm", "numpy", "pillow", "ray", "optuna")
"""Packages whose versions are recorded with a result."""

Listener = Callable[[Mapping[str, float]], None]
"""What is told the metrics of each epoch."""


class Run:
    """The folder ``results/<name>`` of one experiment.

    experiment.yaml (complete), metrics.jsonl (a line an epoch), ranking.json (metrics and
    what they were obtained with), best/ (what evaluate and serve load), and the state to
    resume from. ``storage`` is where the folder is kept, if elsewhere (`rayreid.results`).
    Raises `ValueError` where the folder belongs to another experiment.
    """

    def __init__(self, folder: Path, experiment: Experiment, storage: Storage | None = None):
        self.folder = folder.absolute()
        self.storage = storage or Storage(str(self.folder))
        saved = self.folder / EXPERIMENT
        # A folder with settings alone is of a run that a mistake ended before it began.
        begun = saved.is_file() and any(path != saved for path in self.folder.iterdir())
        trusted = experiment.method
        if begun and load_experiment(saved, trusted=trusted).fingerprint != experiment.fingerprint:
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
        path = self.folder / METRICS
        # A line that a lost machine left unfinished must not swallow this one.
        torn = path.is_file() and not path.read_bytes().endswith(b"\n")
        with path.open("a") as lines:
            lines.write("\n" * torn + json.dumps(dict(metrics)) + "\n")

    def recall(self, rows: Sequence[Row]) -> None:
        """Add the metrics that a state brought along, but for those that are here already.

        Whoever was killed between keeping a state and logging its epoch has not logged it.
        """
        here = {row["epoch"]: row for row in self.metrics()}
        for row in rows:
            if here.get(row["epoch"]) != row:
                self.log(row)

    def metrics(self, before: int | None = None) -> list[dict[str, Any]]:
        """Return the metrics an epoch; of an epoch that was repeated after a loss, the last.

        ``before`` leaves an epoch and those after it out.
        """
        path = self.folder / METRICS
        lines = path.read_text().splitlines() if path.is_file() else []
        # No line but a torn one lacks its closing brace.
        whole = [json.loads(line) for line in lines if line.endswith("}")]
        by_epoch = {row["epoch"]: row for row in whole}
        return [by_epoch[e] for e in sorted(by_epoch) if before is None or e < before]

    def ranking(self) -> dict[str, Any]:
        """Return ranking.json: metrics, and what they were obtained with."""
        recorded: dict[str, Any] = json.loads((self.folder / RANKING).read_text())
        return recorded


def open_sources(
    experiment: Experiment, parts: Sequence[str] = ("train", "query", "gallery")
) -> list[Domain]:
    """Return the domains of an experiment's sources, ``parts`` decoded; errors as their readers.

    Raises `ValueError` where two sources hold the same crops: one would be held out of a fold that
    learns from the other.
    """
    loading, synthetic = experiment.loading, experiment.synthetic
    opened: dict[str, tuple[str, Domain]] = {}
    for source in experiment.sources:
        domain = open_source(source, loading, synthetic)
        same, _ = opened.setdefault(domain.fingerprint, (source, domain))
        if same != source:
            raise ValueError(f"{source} and {same} hold the same crops: name each domain once")
    return [decoded(domain, loading, parts=parts) for _, domain in opened.values()]


def open_unlabelled(experiment: Experiment) -> Crops | None:
    """Return the training crops of an experiment's target, decoded, if it has one."""
    if not experiment.target:
        return None
    domain = open_source(experiment.target, experiment.loading, experiment.synthetic)
    return decoded(domain, experiment.loading, parts=["train"]).train


def learn_here(run: Run, sources: Sequence[Domain], listen: Listener) -> None:
    """Learn a run in this process, going on where an interrupted one stopped.

    Errors as `rayreid.learn.learn`.
    """
    if run.finished:
        return
    run.experiment.refuse_unless_adapting(bool(run.experiment.target))
    states = run.folder / STATES
    last = newest_whole(states)
    if last:
        run.recall(rows_of(last))
    target = open_unlabelled(run.experiment)
    for epoch in learn(run.experiment, sources, target=target, state=last, device=best_device()):
        row = epoch.metrics() | {"workers": 0}
        with told_if_full(run.folder):
            last = keep_state(epoch.learner, states, [*run.metrics(before=epoch.number), row])
            run.log(row)
        listen(row)
    assert last is not None
    with told_if_full(run.folder):
        finish(run, last, sources, workers=0)


def finish(run: Run, state: Path, sources: Sequence[Domain], **entries: object) -> None:
    """Rank the method of the last state on its own domains, then make it the run's best.

    In this order: a run is finished when all that it leaves is there.
    """
    trained = load_trained(state / "trained", trusted=run.experiment.method)
    method = trained.method.to(best_device())
    recorded = circumstances(run.experiment) | {
        "fingerprint": trained.fingerprint,
        "device": device_name(),
        "seconds": round(sum(row["seconds"] for row in run.metrics()), 1),
        **entries,
        "data": {source.name: source.fingerprint for source in sources},
        **({"adapted_to": run.experiment.target} if run.experiment.target else {}),
        "seen": {source.name: _seen(source, run.experiment, method) for source in sources},
    }
    write_json(run.folder / RANKING, recorded)
    draft = run.folder / "best.draft"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.rmtree(run.best, ignore_errors=True)
    shutil.copytree(state / "trained", draft)
    draft.rename(run.best)


def _seen(source: Domain, experiment: Experiment, method: Method) -> dict[str, float] | None:
    """Return the figures on new people of a source, or None where it has none to rank."""
    try:
        return figures(Target(source, experiment.loading).rank(method))
    except ValueError as reason:
        log.warning("%s is not ranked: %s", source.name, reason)
        return None


def keep_evaluation(
    folder: Path,
    target: str,
    method: Mapping[str, object],
    reference: Mapping[str, object],
    also: Mapping[str, object] | None = None,
) -> None:
    """Add a target's figures to the ranking.json of a run's folder, where there is one.

    ``also`` is what else is told: figures of the method's scores after something else, by its
    name, and settings of the ranking.
    """
    path = folder / RANKING
    if path.is_file():
        try:
            recorded = dict(json.loads(path.read_text()))
        except (ValueError, TypeError):
            raise ValueError(f"{path} is not readable as JSON; the figures are not kept") from None
        found = {"method": dict(method), "colour histogram": dict(reference), **(also or {})}
        recorded["targets"] = recorded.get("targets", {}) | {target: found}
        write_json(path, recorded)


def evaluated_targets(folder: Path) -> tuple[str, ...]:
    """Return the domains that a run has been ranked on, from the ranking.json of its folder."""
    for path in (folder / RANKING, folder.parent / RANKING):
        if path.is_file():
            recorded = json.loads(path.read_text())
            return tuple(recorded.get("targets", {}))
    return ()


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
        "versions": {"python": python_version(), **{name: _version(name) for name in PACKAGES}},
        "generator": GENERATOR_VERSION,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """Return the commit of the code in use, or None where there is no checkout, or no git."""
    this = Path(__file__)

    def git(*command: str) -> str:
        answer = subprocess.run(
            ["git", *command], cwd=this.parent, capture_output=True, text=True, check=False
        )
        return answer.stdout.strip() if answer.returncode == 0 else ""

    try:
        # An environment may lie inside a checkout of something else.
        ours = git("ls-files", "--error-unmatch", this.name)
        found = git("describe", "--always", "--dirty", "--abbrev=12") if ours else ""
    except OSError:
        found = ""
    # Code that was submitted to a cluster is told what it was taken from.
    return found or os.environ.get("RAYREID_COMMIT")


def write_yaml(path: Path, value: object) -> None:
    """Write YAML in the order given, whole or not at all."""
    _write_whole(path, yaml.safe_dump(value, sort_keys=False))


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old or the new file, never half of one."""
    _write_whole(path, json.dumps(value, indent=2) + "\n")


def _write_whole(path: Path, text: str) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_text(text)
    draft.replace(path)
