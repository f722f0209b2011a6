"""The console command: a verb for each thing a user does."""

import sys
import time
from pathlib import Path
from typing import Any

import click

from rayreid.cli.benchmarks import benchmark
from rayreid.cli.calibrating import calibrate, explain
from rayreid.cli.datasets import data
from rayreid.cli.matching import match
from rayreid.cli.options import chosen_round, make_experiment, settings_options
from rayreid.cli.ranking import evaluate, protocols
from rayreid.cli.serving import serve
from rayreid.cli.tokens import audit, token

# torch and Ray take seconds to import: each verb imports what it needs, so --help is instant.


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="rayreid")
def cli() -> None:
    """Person re-identification that generalises: trained, tuned and served on Ray."""


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
          protocol: str | None, places: tuple[str, ...], workers: int, name: str | None,
          results: Path) -> None:  # fmt: skip
    """Train METHOD; the same command again goes on where it was interrupted."""
    from rayreid.run import Run, learn_here, open_sources

    learnt = chosen_round(protocol, places, "sources")
    experiment = make_experiment(method, sources, file, assignments, learnt)
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
         assignments: tuple[str, ...], protocol: str | None, places: tuple[str, ...],
         target: str | None, study_assignments: tuple[str, ...], name: str | None,
         results: Path) -> None:  # fmt: skip
    """Search SPACE for METHOD by leave-one-domain-out over the sources."""
    from rayreid.search_space import load_space, refuse_set_and_searched
    from rayreid.settings import checked, parse_assignment
    from rayreid.tune import StudySettings, study

    learnt = chosen_round(protocol, places, "sources")
    searched = load_space(space)
    refuse_set_and_searched(searched, dict(map(parse_assignment, assignments)))
    experiment = make_experiment(method, sources, file, assignments, learnt)
    settings = checked(StudySettings, dict(map(parse_assignment, study_assignments)))
    folder = results / (name or f"study-{method}-{experiment.fingerprint}")
    best = study(experiment, searched, folder, settings, target=target, tell=click.echo)
    from rayreid.settings import dotted

    values = dotted(best.tree())
    for path in searched:
        click.echo(f"best {path} = {values[path]}")
    click.echo(f"rayreid train {method} --from {folder / 'best.yaml'}")


cli.add_command(audit)
cli.add_command(benchmark)
cli.add_command(calibrate)
cli.add_command(data)
cli.add_command(evaluate)
cli.add_command(explain)
cli.add_command(match)
cli.add_command(protocols)
cli.add_command(serve)
cli.add_command(token)
