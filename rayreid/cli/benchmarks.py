"""The verbs that measure."""

from pathlib import Path

import click


@click.group()
def benchmark() -> None:
    """Print measured figures."""


@benchmark.command("synthetic")
@click.option("--seeds", type=click.IntRange(1, 20), default=3, show_default=True)
def synthetic_benchmark(seeds: int) -> None:
    """Measure the drawn domains: speed, and what the baseline and colours reach on them."""
    from rayreid.benchmark.synthetic import synthetic

    click.echo(synthetic(seeds, tell=lambda line: click.echo(line, err=True)))


@benchmark.command("data")
@click.option("--rounds", type=click.IntRange(1, 1000), default=30, show_default=True,
              help="Batches of each way, whose median counts.")  # fmt: skip
@click.option("--to", type=click.Path(path_type=Path), default=Path("results/data"),
              show_default=True, help="Folder for the figures.")  # fmt: skip
def data_benchmark(rounds: int, to: Path) -> None:
    """Measure how fast crops come from JPEGs, and from the cache, into a batch."""
    from rayreid.benchmark.data import data

    click.echo(data(to, tell=lambda line: click.echo(line, err=True), rounds=rounds))


@benchmark.command("matching")
@click.option("--rounds", type=click.IntRange(1, 1000), default=7, show_default=True,
              help="Turns of each form, whose median counts.")  # fmt: skip
@click.option("--to", type=click.Path(path_type=Path), default=Path("results/matching"),
              show_default=True, help="Folder for the figures.")  # fmt: skip
def matching_benchmark(rounds: int, to: Path) -> None:
    """Measure how fast pairs are scored on a CPU, beside the straightforward forms."""
    from rayreid.benchmark.matching import matching

    click.echo(matching(to, tell=lambda line: click.echo(line, err=True), rounds=rounds))


@benchmark.command("ranking")
@click.option("--fraction", type=click.FloatRange(0, 1, min_open=True), default=1.0,
              show_default=True, help="Part of the public sets' sizes.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True,
              help="Times that each is measured, whose median counts.")  # fmt: skip
@click.option("--to", type=click.Path(path_type=Path), default=Path("results/ranking"),
              show_default=True, help="Folder for the page and its figures.")  # fmt: skip
def ranking_benchmark(fraction: float, rounds: int, to: Path) -> None:
    """Measure ranking beside sorting, and beside the product that the scores come from."""
    from rayreid.benchmark.ranking import ranking

    click.echo(ranking(to, lambda line: click.echo(line, err=True), fraction=fraction,
                       rounds=rounds))  # fmt: skip


@benchmark.command("reranking")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True,
              help="Of the published algorithm and ours, whose median counts.")  # fmt: skip
@click.option("--width", type=click.IntRange(2), default=512, show_default=True,
              help="Features of a crop.")  # fmt: skip
@click.option("--to", type=click.Path(path_type=Path), default=Path("results/reranking"),
              show_default=True, help="Folder for the figures.")  # fmt: skip
def reranking_benchmark(rounds: int, width: int, to: Path) -> None:
    """Measure k-reciprocal re-ranking beside the published algorithm: time and memory."""
    from rayreid.benchmark.reranking import reranking

    page = reranking(to, lambda line: click.echo(line, err=True), rounds=rounds, width=width)
    click.echo(page)


@benchmark.command("training")
@click.option(
    "--only",
    multiple=True,
    metavar="CASE",
    help="A method, or a case by its name in the table; repeatable.",
)
@click.option("--compiled", is_flag=True, help="Compiled steps too: minutes more for each case.")
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Steps of each form, whose median counts.",
)
@click.option("--to", type=click.Path(path_type=Path), default=Path("results/training"),
              show_default=True, help="Folder for the figures.")  # fmt: skip
def training_benchmark(only: tuple[str, ...], compiled: bool, rounds: int, to: Path) -> None:
    """Measure the training step of each method; on a GPU also what part of it is used."""
    from rayreid.benchmark.training import training

    def tell(line: str) -> None:
        click.echo(line, err=True)

    click.echo(training(to, tell, only=only, compiled=compiled, rounds=rounds))


@benchmark.command("studies")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True,
              help="Studies of each way of stopping.")  # fmt: skip
@click.option("--only", multiple=True, metavar="PART",
              help="A study (asha-0, none-0, ...) or sharing; repeatable.")  # fmt: skip
@click.option("--scale", "many", is_flag=True, help="One study of many trivial trials instead.")
@click.option("--trials", type=click.IntRange(1), default=1000, show_default=True,
              help="Of the study of many.")  # fmt: skip
@click.option("--to", type=click.Path(path_type=Path), default=Path("results/studies"),
              show_default=True, help="Folder for the figures.")  # fmt: skip
def studies_benchmark(seeds: int, only: tuple[str, ...], many: bool, trials: int, to: Path) -> None:
    """Measure what studies cost; the same command again goes on where it stopped."""
    from rayreid.benchmark.studies import many_trials, studies

    def tell(line: str) -> None:
        click.echo(line, err=True)

    click.echo(many_trials(to, tell, trials) if many else studies(to, tell, seeds, only))


@benchmark.command("scaling")
@click.option("--trunk", default="resnet18", show_default=True, help="A trunk of timm's.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--to", type=click.Path(path_type=Path), default=Path("results/scaling"),
              show_default=True, help="Folder for the table.")  # fmt: skip
def scaling_benchmark(trunk: str, rounds: int, to: Path) -> None:
    """Measure images a second of one worker and of two, and what exchanging gradients takes."""
    from rayreid.benchmark.scaling import scaling

    def tell(line: str) -> None:
        click.echo(line, err=True)

    click.echo(scaling(to, tell, trunk=trunk, rounds=rounds))


@benchmark.command("galleries")
@click.option("--vectors", type=click.IntRange(100), default=50_000, show_default=True,
              help="Embeddings of 2 KiB to enrol.")  # fmt: skip
@click.option("--maps", type=click.IntRange(100), default=2_000, show_default=True,
              help="Embeddings of 48 KiB to enrol.")  # fmt: skip
@click.option("--kills", type=click.IntRange(1, 100), default=2, show_default=True,
              help="Times that a writer is killed at work.")  # fmt: skip
@click.option("--searched", type=click.IntRange(100), default=100_000, show_default=True,
              help="Vectors that are searched; maps a tenth as many.")  # fmt: skip
@click.option("--to", type=click.Path(path_type=Path), default=Path("results/galleries"),
              show_default=True, help="Folder for the figures.")  # fmt: skip
def galleries_benchmark(vectors: int, maps: int, kills: int, searched: int, to: Path) -> None:
    """Measure the store of galleries beside LanceDB: rates, size, kills, erasure, searches."""
    from rayreid.benchmark.galleries import galleries

    click.echo(galleries(to, lambda line: click.echo(line, err=True), vectors=vectors, maps=maps,
                         kills=kills, searched=searched))  # fmt: skip


@benchmark.command("methods")
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    help="Who is compared on what; by default the plan in the package.",
)
@click.option(
    "--source",
    metavar="LAYOUT=LOCATION",
    help="Learn from this one domain, instead of leaving out each of the plan's.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="LAYOUT=LOCATION",
    help="A domain to rank, instead of the plan's unseen ones; repeatable.",
)
@click.option(
    "--elsewhere",
    multiple=True,
    metavar="LAYOUT=LOCATION",
    help="Another domain to rank, in a table of its own; repeatable.",
)
@click.option("--only", multiple=True, metavar="ENTRY", help="An entry to run; repeatable.")
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Trainings at a time, of one thread each.",
)
@click.option("--to", type=click.Path(path_type=Path), default=Path("results/methods"),
              show_default=True, help="Folder for rows, tables and figure.")  # fmt: skip
def methods_benchmark(plan: Path | None, source: str | None, targets: tuple[str, ...],
                      elsewhere: tuple[str, ...], only: tuple[str, ...], processes: int,
                      to: Path) -> None:  # fmt: skip
    """Compare the methods on unseen domains; the same command again goes on where it stopped."""
    from rayreid.benchmark.methods import compare, folds_of, write_page
    from rayreid.benchmark.plan import load_plan, narrowed

    chosen = narrowed(load_plan(plan), only, targets, elsewhere)
    folds = folds_of(chosen, source)
    rows = compare(
        chosen, to, lambda line: click.echo(line, err=True), folds=folds, processes=processes
    )
    click.echo(write_page(chosen, rows, to))


@benchmark.command("serve")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--size", "sizes", multiple=True,
              type=click.Choice(["quickstart", "mobilenet", "resnet50"]),
              help="Without RUN, an untrained model of this size; repeatable; by default "
              "all.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(1, 600), default=10.0, show_default=True,
              help="Of each load.")  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), default=8765, show_default=True)
@click.option("--to", type=click.Path(path_type=Path), default=Path("results/serve"),
              show_default=True, help="Folder for the page, the figures and the plot.")  # fmt: skip
def serve_benchmark(run: Path | None, sizes: tuple[str, ...], seconds: float, port: int,
                    to: Path) -> None:  # fmt: skip
    """Measure the service of a RUN beside the model called directly, and under too much load."""
    from rayreid.benchmark.serving import SIZES, serving

    chosen = sizes or tuple(SIZES)
    click.echo(serving(to, _told, run=run, sizes=chosen, seconds=seconds, port=port))


@benchmark.command("faults")
@click.option("--port", type=click.IntRange(1, 65535), default=8766, show_default=True)
@click.option("--to", type=click.Path(path_type=Path), default=Path("results/serve"),
              show_default=True, help="Folder for the table.")  # fmt: skip
def faults_benchmark(port: int, to: Path) -> None:
    """Break a service under load in every way; print what was lost, and for how long."""
    from rayreid.benchmark.faults import faults

    click.echo(faults(to, _told, port=port))


@benchmark.command("soak")
@click.option("--seconds", type=click.FloatRange(30, 86400), default=600.0, show_default=True)
@click.option("--rate", type=click.FloatRange(0.1, 1000), default=90.0, show_default=True,
              help="Requests a second.")  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), default=8767, show_default=True)
@click.option("--to", type=click.Path(path_type=Path), default=Path("results/serve"),
              show_default=True, help="Folder for table and plot.")  # fmt: skip
def soak_benchmark(seconds: float, rate: float, port: int, to: Path) -> None:
    """Ask a service steadily, and measure whether its memory grows."""
    from rayreid.benchmark.soak import soak

    click.echo(soak(to, _told, seconds=seconds, rate=rate, port=port))


@benchmark.command("fuzz")
@click.option("--seconds", type=click.FloatRange(10, 86400), default=120.0, show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8768, show_default=True)
@click.option("--to", type=click.Path(path_type=Path), default=Path("results/serve"),
              show_default=True, help="Folder for the counts.")  # fmt: skip
def fuzz_benchmark(seconds: float, port: int, to: Path) -> None:
    """Send a service damaged images and hostile requests; count what comes of them."""
    from rayreid.benchmark.fuzz import fuzz

    click.echo(fuzz(to, _told, seconds=seconds, port=port))


def _told(line: str) -> None:
    click.echo(line, err=True)
