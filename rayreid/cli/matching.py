"""The verb that asks a service who is who."""

import csv
import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import click

from rayreid.cli.cutting import IMAGES, Pair, answers

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@click.command()
@click.argument("crops", nargs=-1, metavar="A B", type=click.Path(path_type=Path))
@click.option("--pairs", "pairs_file", type=click.Path(path_type=Path), metavar="FILE.CSV",
              help="Instead of A and B, a pair of files a line, relative to the file.")  # fmt: skip
@click.option("--url", default="http://127.0.0.1:8000", show_default=True,
              help="The service.")  # fmt: skip
@click.option("--token-file", type=click.Path(path_type=Path), help="File that holds the token.")
@click.option("--model", help="Name of a served model; by default its first.")
@click.option("--false-accept-rate", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="What decisions are to hold, where the model is calibrated.")  # fmt: skip
@click.option("--top", type=click.IntRange(1), metavar="K",
              help="Of each A only the K that are most alike.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="A JSON object a pair, a line each.")
def match(crops: tuple[Path, ...], pairs_file: Path | None, url: str, token_file: Path | None,
          model: str | None, false_accept_rate: float | None, top: int | None,
          as_json: bool) -> None:  # fmt: skip
    """Ask a running service how alike the people of A and of B are.

    A and B are images, or folders of images, each of A with each of B.
    """
    from rayreid.client import Client
    from rayreid.client.answers import Pairs

    pairs = _pairs(crops, pairs_file)
    found: dict[int, tuple[Path, Path, float, str]] = {}
    with Client(url, token_file=token_file) as client:

        def ask(some: list[Pair]) -> Pairs:
            files = list(dict.fromkeys(chain.from_iterable(some)))
            number = {file: index for index, file in enumerate(files)}
            return client.match_pairs(
                [(number[a], number[b]) for a, b in some],
                images=files,
                model=model,
                false_accept_rate=false_accept_rate,
            )

        for some, answer in answers(ask, pairs):
            scored = zip(some, answer.scores, answer.decisions, strict=True)
            found |= {n: (*pairs[n], score, decision) for n, score, decision in scored}
            of = f"model {answer.model}, weights {answer.fingerprint}"
    rows = [found[n] for n in range(len(pairs))]
    if top:
        rows = [row for few in _by_query(rows).values() for row in few[:top]]
    if as_json:
        for a, b, score, decision in rows:
            told = {"a": str(a), "b": str(b), "score": score, "decision": decision}
            click.echo(json.dumps(told | {"model": answer.model, "weights": answer.fingerprint}))
        return
    width = [max(len(str(row[side])) for row in rows) for side in (0, 1)]
    for a, b, score, decision in rows:
        click.echo(f"{a!s:{width[0]}}  {b!s:{width[1]}}  {score:9.4f}  {decision}")
    click.echo(f"{len(rows)} pairs by {of}; higher = more alike")


def _pairs(crops: Sequence[Path], pairs_file: Path | None) -> list[Pair]:
    """Return the pairs that are asked for; raises `ValueError` or `FileNotFoundError`."""
    if pairs_file is not None:
        if crops:
            raise ValueError("say A and B, or --pairs FILE.CSV, not both")
        try:
            # With or without the mark that spreadsheets begin such a text with.
            with pairs_file.open(newline="", encoding="utf-8-sig") as file:
                lines = [line for line in csv.reader(file) if line]
        except (UnicodeDecodeError, csv.Error):
            raise ValueError(
                f"{pairs_file} is no table of pairs; give a CSV in UTF-8 with two files, a,b, "
                "a line"
            ) from None
        for number, line in enumerate(lines, 1):
            if len(line) != 2:
                raise ValueError(
                    f"{pairs_file} line {number} has {len(line)} columns; write two files, a,b"
                )
        pairs = [(pairs_file.parent / a.strip(), pairs_file.parent / b.strip()) for a, b in lines]
    elif len(crops) != 2:
        raise ValueError("say which two to match: two images or folders, or --pairs FILE.CSV")
    else:
        rows, columns = map(_images, crops)
        # In blocks: a request holds few images and many pairs of them.
        side = IMAGES // 2
        pairs = [
            (a, b)
            for top in range(0, len(rows), side)
            for left in range(0, len(columns), side)
            for a in rows[top : top + side]
            for b in columns[left : left + side]
        ]
    if not pairs:
        raise ValueError("there are no pairs to match")
    for image in dict.fromkeys(chain.from_iterable(pairs)):
        if not image.exists():
            raise FileNotFoundError(f"there is no image {image}; check the path")
        if image.is_dir():
            raise ValueError(f"{image} is a folder; name the images in it")
    return pairs


def _images(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS)
    if not found:
        raise ValueError(f"{path} holds no images; give a folder with some of {', '.join(ENDINGS)}")
    return found


def _by_query(
    rows: Sequence[tuple[Path, Path, float, str]],
) -> dict[Path, list[tuple[Path, Path, float, str]]]:
    """Return the rows of each first crop, the most alike first."""
    found: dict[Path, list[tuple[Path, Path, float, str]]] = {}
    for row in sorted(rows, key=lambda row: -row[2]):
        found.setdefault(row[0], []).append(row)
    return dict(sorted(found.items()))
