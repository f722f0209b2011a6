"""The verbs that look at data sets."""

import sys
from collections.abc import Callable
from pathlib import Path

import click

from rayreid.cli.options import counter


@click.group()
def data() -> None:
    """Look at data sets."""


@data.command("sheet")
@click.argument("names", nargs=-1)
@click.option("--to", type=click.Path(path_type=Path), default=Path("contact_sheet.png"),
              show_default=True)  # fmt: skip
@click.option("--people", type=click.IntRange(1, 100), default=8, show_default=True)
@click.option("--cameras", type=click.IntRange(1, 20), default=4, show_default=True)
@click.option("--height", type=click.IntRange(16, 512), default=128, show_default=True)
@click.option("--strength", type=float, default=1.0, show_default=True,
              help="How far domains are apart; 0 = not at all.")  # fmt: skip
def sheet(names: tuple[str, ...], to: Path, people: int, cameras: int, height: int,
          strength: float) -> None:  # fmt: skip
    """Draw people x cameras x domains: the drawn domains NAMES, by default all named ones."""
    from rayreid.data.synthetic import NAMED_STYLES, contact_sheet

    chosen = names or tuple(NAMED_STYLES)
    picture = contact_sheet(chosen, people=people, cameras=cameras, height=height,
                            width=height // 2, strength=strength)  # fmt: skip
    if to.suffix.lower() != ".png":
        raise ValueError(f"{to} is no name of a .png file; give one with --to")
    picture.save(to)
    click.echo(f"{to}: {picture.width} x {picture.height} pixels")


@data.command("show")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--to", type=click.Path(path_type=Path), required=True, metavar="FOLDER",
              help="Folder for index.html and sheet.png.")  # fmt: skip
@click.option("--people", type=click.IntRange(1, 100), default=8, show_default=True,
              help="Rows of each domain in the contact sheet.")  # fmt: skip
@click.option("--cameras", type=click.IntRange(1, 20), default=8, show_default=True,
              help="Columns of each domain at most; those with most crops.")  # fmt: skip
@click.option("--height", type=click.IntRange(32, 512), default=128, show_default=True,
              help="Height of its cells, in pixels.")  # fmt: skip
@click.option("--sample", type=click.IntRange(1), default=20_000, show_default=True,
              help="Crops of each domain, evenly spread, whose pixels are measured.")  # fmt: skip
def show(sources: tuple[str, ...], to: Path, people: int, cameras: int, height: int,
         sample: int) -> None:  # fmt: skip
    """Show data sets on a page: a contact sheet, counts, sizes, exact copies, colours.

    SOURCE is a data set, layout=location, e.g. market1501=/data/Market-1501 or synthetic=snow.
    """
    from rayreid.data import showing

    shown = showing.show(sources, to, people=people, cameras=cameras, height=height,
                         sample=sample, progress=_progress)  # fmt: skip
    broken = sum(each.broken for each in shown)
    crops = "crop" if broken == 1 else "crops"
    click.echo(
        f"{to / 'index.html'} and {to / 'sheet.png'}"
        + (f"; {broken:,} broken {crops} passed over, named on the page" if broken else "")
    )


@data.command("check")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--decode", is_flag=True, help="Decode the pixels too, not the headers alone.")
@click.option("--on-error", type=click.Choice(["fail", "skip"]), default="fail",
              show_default=True, help="Whether broken crops are a fault.")  # fmt: skip
@click.option("--counts/--no-counts", default=True, show_default=True,
              help="Compare with the public set that a layout is named after.")  # fmt: skip
def check(sources: tuple[str, ...], decode: bool, on_error: str, counts: bool) -> None:
    """Check data sets: whole, readable, and labelled without a conflict.

    Faults are marked with !, and the exit code is 1 where there is one; notes with -.
    """
    from rayreid.data import checking
    from rayreid.data.sources import canonical

    faults = 0
    for source in [canonical(source) for source in sources]:
        checked = checking.check(source, decode=decode, broken_is_fault=on_error == "fail",
                                 whole=counts, progress=_progress)  # fmt: skip
        for line in checked.lines():
            click.echo(line)
        faults += checked.faults
    if faults:
        raise click.ClickException(
            f"{faults} {'faults' if faults > 1 else 'fault'} in {len(sources)} "
            f"{'sources' if len(sources) > 1 else 'source'}, marked with ! above"
        )
    click.echo("no faults")


@data.command("pack")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--to", required=True, metavar="ADDRESS",
              help="A folder, s3://bucket/prefix or gs://bucket/prefix; each set goes below it, "
              "under its own name.")  # fmt: skip
@click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE",
              help="A setting, e.g. shard_mib=256 or, of drawn domains, loading.height=128 and "
              "synthetic.train_people=200; repeatable.")  # fmt: skip
def pack(sources: tuple[str, ...], to: str, assignments: tuple[str, ...]) -> None:
    """Write data sets as Parquet shards, which any node reads as packed=ADDRESS/NAME.

    The same command again goes on where it was interrupted, and leaves what is whole alone. An
    object store's credentials are read from the environment; its endpoint may follow the address:
    s3://bucket/prefix?endpoint_override=host:port&scheme=http.
    """
    from rayreid.data import packing
    from rayreid.settings import checked, nested, parse_assignment

    settings = checked(packing.PackSettings, nested(dict(map(parse_assignment, assignments))))
    for source in sources:
        address, manifest = packing.pack(
            source, to, settings, progress=counter(f"packing {source}, crops"), tell=click.echo
        )
        size = sum(shard.bytes for shard in manifest.shards) / 2**20
        parts = ", ".join(
            f"{count.crops} {part} crops of {count.people} people"
            for part, count in manifest.parts.items() if count.crops
        )  # fmt: skip
        click.echo(f"packed={address}: {parts}; {size:.1f} MiB, {manifest.fingerprint}")


def _progress(source: str, crops: int) -> Callable[[int], object]:
    """Return a progress bar on a terminal, which is silent in a file."""
    from rayreid.data.scanning import legible

    bar = click.progressbar(length=crops, label=f"reading {legible(source)}", file=sys.stderr)

    def add(more: int) -> None:
        if not sys.stderr.isatty():
            return
        bar.update(more)
        if bar.finished:
            bar.render_finish()
            click.echo(err=True)

    return add
