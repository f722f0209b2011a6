"""The verbs about single pairs: the thresholds of a run's scores, and what a score comes from."""

from pathlib import Path

import click

from rayreid.cli.options import counter


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--pairs", "source", required=True, metavar="LAYOUT=LOCATION",
              help="A labelled domain, e.g. market1501=/data/Market-1501, or a .csv or .parquet "
              "file of pairs (first, second, same).")  # fmt: skip
@click.option("--rate", "rates", type=float, multiple=True,
              help="A false accept rate; repeatable.  [default: 0.1 to 0.0001]")  # fmt: skip
@click.option("--search-rate", "search_rates", type=float, multiple=True,
              help="A rate of false answers to searches.  [default: 0.1 to 0.001]")  # fmt: skip
@click.option("--samples", type=click.IntRange(min=0), default=0, metavar="CROPS",
              help="Of an enrolled person in the galleries to come; 0: as many as here.",
              )  # fmt: skip
@click.option("--on-target", is_flag=True,
              help="Allow a target of this run, whose figures then are none of an unseen domain.",
              )  # fmt: skip
def calibrate(run: Path, source: str, rates: tuple[float, ...], search_rates: tuple[float, ...],
              samples: int, on_target: bool) -> None:  # fmt: skip
    """Find the thresholds of a trained RUN's scores from labelled pairs.

    They are kept beside its weights, and decide what rayreid serve answers.
    """
    from rayreid.calibrate import CalibrationSettings
    from rayreid.calibrate import calibrate as calibrated
    from rayreid.calibration_page import (
        BOTH_NOTE,
        PAGE,
        PAIR_HEADER,
        page,
        pair_rows,
        search_header,
        search_note,
        search_rows,
    )
    from rayreid.checkpoint import load_trained
    from rayreid.ranking.thresholds import NotEnough
    from rayreid.report import table
    from rayreid.run import evaluated_targets
    from rayreid.settings import checked

    asked: dict[str, object] = {"samples": samples}
    asked |= {"rates": rates} if rates else {}
    asked |= {"search_rates": search_rates} if search_rates else {}
    settings = checked(CalibrationSettings, asked)
    trained = load_trained(run)
    found = calibrated(
        trained,
        source,
        settings,
        targets=evaluated_targets(run),
        on_target=on_target,
        progress=counter("embedding, crops"),
        scoring=counter("scoring, pairs"),
    )
    path = found.save(run)
    path.with_name(PAGE).write_text(page(found), encoding="utf-8")
    click.echo(
        f"{found.genuine:,} pairs of one person, {found.impostors:,} of two; "
        f"{found.people:,} people of {found.source}"
    )
    click.echo(table(PAIR_HEADER, pair_rows(found)))
    for one in found.pairs:
        if isinstance(one, NotEnough):
            click.echo(str(one))
    if found.directions == "both":
        click.echo(BOTH_NOTE)
    if found.review is None:
        click.echo("too few pairs of one person to tell below which score there is no match")
    if found.search:
        click.echo()
        click.echo(table(search_header(found.search), search_rows(found.search)))
        click.echo(search_note(found.search))
    click.echo(f"\nkept in {path}; see {path.with_name(PAGE)}")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), required=True,
              help="A .png, both crops with what matched; or a .json.")  # fmt: skip
@click.option("--lines", type=click.IntRange(min=0), default=20, show_default=True,
              help="Matches that are told.")  # fmt: skip
def explain(run: Path, first: Path, second: Path, to: Path, lines: int) -> None:
    """Show which regions of two crops, FIRST the query, made a trained RUN's score."""
    import numpy as np

    from rayreid.checkpoint import load_trained
    from rayreid.data.decoding import decode
    from rayreid.explain import SHOWN_HEIGHT, explain_pair, picture
    from rayreid.run import best_device

    if to.suffix.lower() not in (".png", ".json"):
        raise ValueError(f"{to} ends in neither .png or .json; say which of the two you want")
    trained = load_trained(run)
    loading = trained.experiment.loading
    height, width = loading.height, loading.width
    pair = np.stack([decode(path, height, width) for path in (first, second)])
    found = explain_pair(trained.method.to(best_device()), pair, lines=lines)
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.suffix.lower() == ".json":
        to.write_text(found.model_dump_json(indent=1) + "\n")
    else:
        size = SHOWN_HEIGHT, round(SHOWN_HEIGHT * width / height)
        picture(found, *(decode(path, *size) for path in (first, second))).save(to)
    click.echo(f"score {found.score:.4f}: {found.says}")
    if found.matches:
        click.echo(f"{len(found.matches)} matches shown, which add {found.matched:.4f}")
    click.echo(f"see {to}")
