"""The console command: a verb for each thing a user does."""

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rayreid.cli.benchmarks import benchmark
from rayreid.cli.calibrating import calibrate, explain
from rayreid.cli.cluster import clusters, fetch, jobs, logs, stop, submit
from rayreid.cli.datasets import data
from rayreid.cli.matching import match
from rayreid.cli.options import Workers, chosen_round, make_experiment, settings_options
from rayreid.cli.ranking import evaluate, protocols
from rayreid.cli.serving import serve
from rayreid.cli.tokens import audit, token

# torch and Ray take seconds to import: each verb imports what it needs, so --help is instant.
if TYPE_CHECKING:
    from rayreid.experiment import Experiment
    from rayreid.results import Place
    from rayreid.train import Placement


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
@click.option(
    "--workers",
    type=Workers(),
    default="0",
    show_default=True,
    metavar="N|MIN-MAX",
    help="Ray Train workers, e.g. 2, or 2-4 as there is room; 0 = this process, no Ray.",
)
@click.option("--placement", type=click.Choice(["pack", "spread", "strict_spread"]),
              default="pack", show_default=True,
              help="Workers on few nodes, on many, or on a node each.")  # fmt: skip
@click.option("--name", help="Name of the run; by default of method and settings.")
@click.option("--results", default="results", show_default=True, metavar="FOLDER|ADDRESS",
              help="Where all runs are kept: a folder, s3://... or gs://...")  # fmt: skip
def train(method: str, sources: tuple[str, ...], file: str | None, assignments: tuple[str, ...],
          protocol: str | None, places: tuple[str, ...], workers: "int | tuple[int, int]",
          placement: "Placement", name: str | None, results: str) -> None:  # fmt: skip
    """Train METHOD; the same command again goes on where it was interrupted."""
    from rayreid.results import opened

    learnt = chosen_round(protocol, places, "sources")
    experiment = make_experiment(method, sources, file, assignments, learnt)
    with opened(results, name or f"{method}-{experiment.fingerprint}") as place:
        train_in(place, experiment, workers, placement)


def train_in(
    place: "Place",
    experiment: "Experiment",
    workers: "int | tuple[int, int]",
    placement: "Placement",
) -> None:
    """Train in an opened place, telling each epoch."""
    from rayreid.run import Run, learn_here, open_sources

    run = Run(place.folder, experiment, place.storage)
    if run.finished:
        click.echo(f"{place.public} is finished; remove it, or give another --name, to train again")
        return
    epochs = experiment.epochs
    names = ", ".join(experiment.sources)
    click.echo(f"training {experiment.method} on {names} into {place.public}")

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

        train_on_ray(run, workers, listen, placement=placement)
    else:
        learn_here(run, open_sources(experiment), listen)
    for domain, figures in run.ranking()["seen"].items():
        if figures:
            mean_ap, rank1 = figures["mAP"], figures["rank1"]
            click.echo(f"new people of {domain}: mAP {mean_ap:.3f}, R1 {rank1:.3f}")
    click.echo(f"trained method in {place.public}/best")


@cli.command()
@click.argument("method")
@click.argument("space", type=click.Path(path_type=Path))
@settings_options
@click.option("--target", metavar="LAYOUT=LOCATION",
              help="The domain that will be ranked in the end; never opened here.")  # fmt: skip
@click.option("--study", "study_assignments", multiple=True, metavar="NAME=VALUE",
              help="How to search, e.g. trials=20, objective=worst, sampler=random, stopping=none; "
              "repeatable.")  # fmt: skip
@click.option("--resume", is_flag=True,
              help="Go on with a study that was interrupted, under the same settings.")  # fmt: skip
@click.option("--name", help="Name of the study; by default of method and settings.")
@click.option("--results", default="results", show_default=True, metavar="FOLDER|ADDRESS",
              help="Where all studies are kept: a folder, s3://... or gs://...")  # fmt: skip
def tune(method: str, space: Path, sources: tuple[str, ...], file: str | None,
         assignments: tuple[str, ...], protocol: str | None, places: tuple[str, ...],
         target: str | None, study_assignments: tuple[str, ...], resume: bool, name: str | None,
         results: str) -> None:  # fmt: skip
    """Search SPACE for METHOD by leave-one-domain-out over the sources."""
    from rayreid.data.storage import below, is_remote
    from rayreid.results import opened
    from rayreid.search_space import is_active, load_space, plain, refuse_set_and_searched
    from rayreid.settings import checked, dotted, parse_assignment
    from rayreid.tune import StudySettings, study

    learnt = chosen_round(protocol, places, "sources")
    searched = load_space(space)
    refuse_set_and_searched(searched, dict(map(parse_assignment, assignments)))
    experiment = make_experiment(method, sources, file, assignments, learnt)
    settings = checked(StudySettings, dict(map(parse_assignment, study_assignments)))
    with opened(results, name or f"study-{method}-{experiment.fingerprint}") as place:
        best = study(
            experiment, searched, place.folder, settings, target=target, resume=resume,
            tell=click.echo,
        )  # fmt: skip
    values = dotted(best.tree())
    active: dict[str, object] = {}
    for path, parameter in searched.items():
        if is_active(parameter, active):
            active[path] = plain(values[path])
            click.echo(f"best {path} = {active[path]}")
    address = place.storage.address
    # A store's options, which may be in its address, are left out of its public one.
    kept = below(address, "best.yaml") if is_remote(address) else f"{place.public}/best.yaml"
    click.echo(f"rayreid train {method} --from {shlex.quote(kept)}")


@cli.command()
@click.argument("study", type=click.Path(path_type=Path))
def report(study: Path) -> None:
    """Write STUDY's report.html, from what its folder holds so far."""
    from rayreid.study_report import write_report

    click.echo(write_report(study))


for verb in (submit, jobs, logs, stop, fetch, clusters):
    cli.add_command(verb)
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
