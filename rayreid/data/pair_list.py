"""Pairs of images that somebody has labelled: a table with a row for each pair, CSV or Parquet."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64
from pyarrow import csv, parquet
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

COLUMNS = FIRST, SECOND, SAME = "first", "second", "same"
MAX_ROWS = 50_000_000
HOLDS = (
    "a .csv or .parquet file with the columns first and second (images) and same "
    "(true or 1: one person, false or 0: two)"
)

_LABELS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, eq=False)
class PairList:
    """Pairs of n images, whether they show one person, and whom that makes of the images.

    ``people`` numbers whom images show from 0: those that pairs of one person connect are one.
    """

    images: tuple[Path, ...]
    pairs: Int64[np.ndarray, "p 2"]
    same: Bool[np.ndarray, " p"]
    people: Int64[np.ndarray, " n"]


def read_pair_list(path: Path) -> PairList:
    """Return the pairs that a file lists: images absolute or from the file's folder.

    Raises `FileNotFoundError` where the file or an image is missing; `ValueError` for no such
    table, one without pairs of one kind, a pair of an image with itself or listed twice, a label
    that is none, and labels that contradict each other: a is b, b is c, a is not c.
    """
    file = path.expanduser().absolute()
    if not file.is_file():
        raise FileNotFoundError(f"there are no pairs at {file}: give {HOLDS}")
    columns = _read(file)
    number: dict[Path, int] = {}
    pairs = np.empty((len(columns[0]), 2), np.int64)
    for side in (0, 1):
        for row, text in enumerate(columns[side]):
            if not text:
                raise ValueError(f"{file} has no image in row {row + 1}: fill it in")
            image = Path(os.path.normpath(file.parent / text))
            pairs[row, side] = number.setdefault(image, len(number))
    for image, index in number.items():
        if not image.is_file():
            row = int((pairs == index).any(1).argmax()) + 1
            raise FileNotFoundError(f"there is no image at {image}, row {row} of {file}")
    same = np.array([_label(file, row, text) for row, text in enumerate(columns[2])], bool)
    _check(file, pairs, same)
    joined = coo_array((np.ones(same.sum()), pairs[same].T), (len(number), len(number)))
    people = connected_components(joined, directed=False)[1].astype(np.int64)
    torn = ~same & (people[pairs[:, 0]] == people[pairs[:, 1]])
    if torn.any():
        row = int(torn.argmax())
        raise ValueError(
            f"{file} contradicts itself: row {row + 1} says that two images show two people, and "
            "other rows together that they show one"
        )
    return PairList(tuple(number), pairs, same, people)


def _check(file: Path, pairs: Int64[np.ndarray, "p 2"], same: Bool[np.ndarray, " p"]) -> None:
    for kind, there in (("one person", same.any()), ("two people", not same.all())):
        if not there:
            raise ValueError(f"{file} has no pairs of {kind}: both kinds are needed")
    itself = pairs[:, 0] == pairs[:, 1]
    if itself.any():
        raise ValueError(f"{file} pairs an image with itself in row {itself.argmax() + 1}")
    ordered = np.sort(pairs, axis=1)
    _, first, inverse = np.unique(ordered, axis=0, return_index=True, return_inverse=True)
    again = first[inverse.ravel()] != np.arange(len(pairs))
    if again.any():
        row = int(again.argmax())
        raise ValueError(
            f"{file} lists the pair of row {first[inverse.ravel()[row]] + 1} again in row "
            f"{row + 1}: remove one, since it would count twice"
        )


def _label(file: Path, row: int, text: str) -> bool:
    if text.lower() not in _LABELS:
        raise ValueError(
            f"{file} has {text!r} as {SAME} in row {row + 1}: write true (one person) or false"
        )
    return _LABELS[text.lower()]


def _read(file: Path) -> list[list[str]]:
    """Return the three columns as text."""
    kind = file.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise ValueError(f"{file} ends in {kind or 'nothing'}, and pairs are {HOLDS}")
    found: list[list[str]] = [[], [], []]
    try:
        names, batches = (_opened_csv if kind == ".csv" else _opened_parquet)(file)
        if sorted(names) != sorted(COLUMNS):
            raise ValueError(f"{file} has the columns {', '.join(names[:9])}: pairs are {HOLDS}")
        for batch in batches:
            for column, name in zip(found, COLUMNS, strict=True):
                values = batch.column(names.index(name)).to_pylist()
                column += ["" if value is None else str(value).strip() for value in values]
            if len(found[0]) > MAX_ROWS:
                raise ValueError(f"{file} has more than {MAX_ROWS:,} rows: divide it")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is no text in UTF-8: pairs are {HOLDS}") from None
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        if "invalid UTF8" in reason:
            raise ValueError(f"{file} is no text in UTF-8: pairs are {HOLDS}") from None
        raise ValueError(
            f"{file} is not readable as {kind[1:]} ({reason}): pairs are {HOLDS}"
        ) from None
    if not found[0]:
        raise ValueError(f"{file} has no rows: list a pair in each")
    return found


def _opened_csv(file: Path) -> tuple[list[str], Iterable[pa.RecordBatch]]:
    text = csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()))
    reader = csv.open_csv(file, convert_options=text)
    return reader.schema.names, reader


def _opened_parquet(file: Path) -> tuple[list[str], Iterable[pa.RecordBatch]]:
    opened = parquet.ParquetFile(file)
    return opened.schema_arrow.names, opened.iter_batches()
