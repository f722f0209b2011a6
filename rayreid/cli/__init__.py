"""The console command: a verb for each thing a user does."""

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rayreid.cli.benchmarks import benchmark
from rayreid.cli.datasets import data

# torch and Ray take seconds to import: each verb imports what it needs, so --help is instant.
if TYPE_CHECKING:
    from rayreid.experiment import Experiment


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="rayreid")
def cli() -> None:
    """Person re-identification that generalises: trained, tuned and served on Ray."""


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that make an experiment."""
    for option in (
        click.option("--source", "sources", multiple=True, metavar="LAYOUT=LOCATION",
                     help="A domain to learn from, e.g. synthetic=snow; repeatable."),
        click.option("--from", "file", type=click.Path(path_type=Path),
                     help="Settings to start from (an experiment.yaml or best.yaml)."),
        click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE",
                     help="A setting, e.g. optimiser.lr=1e-3; repeatable."),
    ):  # fmt: skip
        command = option(command)
    return command


def make_experiment(
    method: str, sources: Iterable[str], file: Path | None, assignments: Iterable[str]
) -> "Experiment":
    """Return the experiment that the options describe."""
    from rayreid.experiment import compose, load_assignments
    from rayreid.settings import parse_assignment

    layers: list[dict[str, object]] = []
    if file:
        layers.append(load_assignments(file))
    layers.append(dict(map(parse_assignment, assignments)))
    if sources := tuple(sources):
        layers.append({"sources": sources})
    elif not any("sources" in layer for layer in layers):
        raise ValueError("no domain to learn from; add --source, e.g. --source synthetic=snow")
    return compose(method, *layers)


def counter(label: str) -> Callable[[int], None]:
    """Return a progress that counts up on a terminal, and is silent in a file."""
    done = 0

    def add(more: int) -> None:
        nonlocal done
        done += more
        if sys.stderr.isatty():
            click.echo(f"\r{label}: {done}", nl=False, err=True)

    return add


@cli.command()
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    default=Path("results/quickstart"),
    show_default=True,
    help="Folder for what it leaves.",
)
@click.option("--method", default="gmn", show_default=True,
              help="What the study tunes: gmn or qaconv_ms.")  # fmt: skip
def quickstart(to: Path, method: str) -> None:
    """Study, train, rank and serve on the built-in domains, in minutes, on two cores."""
    from rayreid.quickstart import quickstart as run

    started = time.perf_counter()

    def tell(line: str) -> None:
        click.echo(f"[{time.perf_counter() - started:5.0f} s] {line}")

    tell(f"results go to {to}")
    outcome = run(to, tell, method)
    click.echo(f"\n{outcome.table}")
    tell(f"done; see {outcome.folder}")


@cli.command()
@click.argument("method", required=False)
def methods(method: str | None) -> None:
    """List the methods, or the hyper-parameters and the recipe of one."""
    from rayreid.methods import METHODS, find_method
    from rayreid.report import table

    if method is None:
        for name, kind in METHODS.items():
            summary = (sys.modules[kind.__module__].__doc__ or "").splitlines()[0]
            click.echo(f"{name:10} {summary}")
            if kind.adapts:
                click.echo(f"{'':10} (learns from unlabelled crops of a target, set by target=)")
        return
    kind = find_method(method)
    rows = [
        (f"config.{name}", field.default, field.description or "")
        for name, field in kind.Config.model_fields.items()
    ]
    for path, default, text in rows:
        click.echo(f"{path} = {default}\n    {' '.join(text.split())}")
    recipe = [(path, str(value)) for path, value in kind.recipe.items()]
    click.echo("\n" + table(("recipe", "value"), recipe))


@cli.command()
@click.argument("method")
@settings_options
@click.option("--workers", type=click.IntRange(0, 4096), default=0, show_default=True,
              help="Ray Train workers; 0 = learn in this process, without Ray.")  # fmt: skip
@click.option("--name", help="Name of the run; by default of method and settings.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"),
              show_default=True, help="Folder of all runs; one that all nodes share.")  # fmt: skip
def train(method: str, sources: tuple[str, ...], file: Path | None, assignments: tuple[str, ...],
          workers: int, name: str | None, results: Path) -> None:  # fmt: skip
    """Train METHOD; the same command again goes on where it was interrupted."""
    from rayreid.run import Run, learn_here, open_sources

    experiment = make_experiment(method, sources, file, assignments)
    run = Run(results / (name or f"{method}-{experiment.fingerprint}"), experiment)
    if run.finished:
        click.echo(f"{run.folder} is finished; remove it, or give another --name, to train again")
        return
    epochs = experiment.epochs
    click.echo(f"training {method} on {', '.join(experiment.sources)} into {run.folder}")

    def listen(metrics: Any) -> None:
        losses = ", ".join(
            f"{key.removeprefix('loss/')} {value:.3f}"
            for key, value in metrics.items() if key.startswith("loss/")
        )  # fmt: skip
        speed, skipped = metrics["images_per_second"], metrics["skipped"]
        lost = f", {skipped} steps skipped" if skipped else ""
        click.echo(f"epoch {metrics['epoch']}/{epochs}: {losses}; {speed:.0f} images/s{lost}")
        if metrics["waiting"] > 0.2:
            click.echo(
                f"  {metrics['waiting']:.0%} of the time went into waiting for data; raise "
                "loading.workers, or loading.memory_gib to keep crops decoded"
            )

    if workers:
        from rayreid.train import train_on_ray

        train_on_ray(run, workers, listen)
    else:
        learn_here(run, open_sources(experiment), listen)
    for domain, figures in run.ranking()["seen"].items():
        if figures:
            mean_ap, rank1 = figures["mAP"], figures["rank1"]
            click.echo(f"new people of {domain}: mAP {mean_ap:.3f}, R1 {rank1:.3f}")
    click.echo(f"trained method in {run.best}")


@cli.command()
@click.argument("method")
@click.argument("space", type=click.Path(path_type=Path))
@settings_options
@click.option("--target", metavar="LAYOUT=LOCATION",
              help="The domain that will be ranked in the end; never opened here.")  # fmt: skip
@click.option("--study", "study_assignments", multiple=True, metavar="NAME=VALUE",
              help="How to search, e.g. trials=20, grace_epochs=3; repeatable.")  # fmt: skip
@click.option("--name", help="Name of the study; by default of method and settings.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"),
              show_default=True, help="Folder of all studies.")  # fmt: skip
def tune(method: str, space: Path, sources: tuple[str, ...], file: Path | None,
         assignments: tuple[str, ...], target: str | None, study_assignments: tuple[str, ...],
         name: str | None, results: Path) -> None:  # fmt: skip
    """Search SPACE for METHOD by leave-one-domain-out over the sources."""
    from rayreid.search_space import load_space, refuse_set_and_searched
    from rayreid.settings import checked, parse_assignment
    from rayreid.tune import StudySettings, study

    searched = load_space(space)
    refuse_set_and_searched(searched, dict(map(parse_assignment, assignments)))
    experiment = make_experiment(method, sources, file, assignments)
    settings = checked(StudySettings, dict(map(parse_assignment, study_assignments)))
    folder = results / (name or f"study-{method}-{experiment.fingerprint}")
    best = study(experiment, searched, folder, settings, target=target, tell=click.echo)
    from rayreid.settings import dotted

    values = dotted(best.tree())
    for path in searched:
        click.echo(f"best {path} = {values[path]}")
    click.echo(f"rayreid train {method} --from {folder / 'best.yaml'}")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--target", "targets", multiple=True, required=True, metavar="LAYOUT=LOCATION",
              help="A domain to rank, e.g. market1501=/data/Market-1501; repeatable.")  # fmt: skip
@click.option("--temporal-lift", is_flag=True,
              help="Also rank by scores lifted by the crops' times (TLift).")  # fmt: skip
def evaluate(run: Path, targets: tuple[str, ...], temporal_lift: bool) -> None:
    """Rank unseen domains with a trained RUN, beside the colour-histogram reference."""
    from rayreid.checkpoint import load_trained
    from rayreid.evaluate import Evaluation
    from rayreid.evaluate import evaluate as rank_target
    from rayreid.ranking.temporal_lift import LiftSettings
    from rayreid.report import table
    from rayreid.run import keep_evaluation

    trained = load_trained(run)
    method, lift = trained.experiment.method, LiftSettings() if temporal_lift else None
    rows: list[tuple[object, ...]] = []
    notes = []
    results: list[Evaluation] = []
    for target in targets:
        result = rank_target(trained, target, counter(f"ranking {target}, crops"), lift)
        own = f"{method} (adapted)" if result.adapted else method
        for name, r in ((own, result.ranking), (f"{own} + temporal lift", result.lifted),
                        ("colour histogram", result.reference)):  # fmt: skip
            if r:
                rows.append((target, name, r.rank1, r.map, r.minp, r.queries))
        if result.ranking.unmatched:
            notes.append(f"{target}: {result.ranking.unmatched} queries have no match; left out")
        if result.adapted:
            notes.append(
                f"{method} has learnt from unlabelled crops of {target}: to be compared with what "
                "adapts, not with what generalises"
            )
        if result.seen:
            notes.append(f"{target} is a source of this run: not an unseen domain")
        results.append(result)
    click.echo(table(("target", "scores by", "R1", "mAP", "mINP", "queries"), rows))
    for note in notes:
        click.echo(note)
    for result in results:
        keep_evaluation(run, result.target, result.ranking, result.reference)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Address to bind; there is no authentication.")  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--replicas", type=click.IntRange(1), default=1, show_default=True)
@click.option("--gpus", type=click.FloatRange(0), default=0.0, show_default=True,
              help="GPUs of a replica; a fraction shares one.")  # fmt: skip
def serve(run: Path, host: str, port: int, replicas: int, gpus: float) -> None:
    """Serve a trained RUN: POST pairs of images to /v1/match/pairs, receive scores."""
    from rayreid.serve import start, stop
    from rayreid.session import session

    with session():
        url = start(run, host=host, port=port, replicas=replicas, gpus=gpus)
        click.echo(f"serving {run} at {url}; Ctrl-C stops it")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            click.echo("stopping")
        finally:
            stop()


cli.add_command(benchmark)
cli.add_command(data)
