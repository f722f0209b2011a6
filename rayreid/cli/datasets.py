"""The verbs that look at data sets."""

from pathlib import Path

import click


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
