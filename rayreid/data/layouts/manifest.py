"""Manifests: a table with a row for each crop, as CSV or Parquet, and crops anywhere."""

import math
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

from rayreid.batch import Crops, Domain
from rayreid.data.layouts.grammar import NOBODY, Layout, Options, crops, opened_root

SPLITS = TRAIN, QUERY, GALLERY = "train", "query", "gallery"
NEEDED, OPTIONAL = ("path", "identity"), ("camera", "domain", "split", "time")
MAX_ROWS = 50_000_000
"""Ten times as many as in the largest sets of people; all rows are kept in memory."""

HOLDS = (
    f"a .csv or .parquet file with the columns {' and '.join(NEEDED)} and, where known, "
    f"{', '.join(OPTIONAL)}"
)
_WHOLE = re.compile(r"-?[0-9]{1,18}")

Value = str | int | float | None
Table = Mapping[str, Sequence[Value]]
"""Columns of equal length, by name."""


def read_manifest(root: Path, name: str, _options: Options = frozenset()) -> Domain:
    """Return the domain that a CSV or Parquet file lists, a row for each crop.

    Columns, in any order; there may be no others, since a misspelt one would be lost in silence:

    - ``path``: the image, absolute or from the manifest's folder;
    - ``identity``: whom it shows, as text or a whole number;
    - ``camera``: which took it, as text or a whole number. Without the column every crop is of a
      camera of its own, so that ranking removes no match for being of the query's camera;
    - ``split``: ``train``, ``query`` or ``gallery``. Without the column all rows are learnt from;
    - ``time``: seconds on the camera's clock;
    - ``domain``: a name, the same in all rows, since a source is one domain.

    Where all identities are whole numbers they are kept, and 0 is nobody, a distractor of the
    gallery; otherwise people are numbered from 1 in the order of their names. Likewise cameras.
    Crops are absolute paths in the order of the rows.

    Raises FileNotFoundError when the file or an image is missing; ValueError when it is a folder,
    no such table, empty or of more than `MAX_ROWS`, when a row lacks a value or has the path of
    another, an identity below 0 or 0 outside the gallery, an unknown split or a time that is no
    number, when rows are of several domains or of only one of query and gallery, and for crops of
    DukeMTMC. Messages count rows from 1, without the header.
    """
    file = root.absolute()
    if file.is_dir():
        raise ValueError(f"{file} is a folder, where a manifest was expected: give {HOLDS}")
    if not file.is_file():
        raise FileNotFoundError(f"no manifest at {file}: check the path")
    table = _read(file)
    if not table["path"]:
        raise ValueError(f"{file} has no rows: list a crop in each")
    images = _images(file, table["path"])
    identities = _numbers(_texts(file, table, "identity"))
    splits = _texts(file, table, "split") if "split" in table else [TRAIN] * len(images)
    _check(file, identities, splits)
    if "domain" in table:
        domains = sorted(set(_texts(file, table, "domain")))
        if len(domains) > 1:
            raise ValueError(
                f"{file} lists several domains, {domains[0]} and {domains[1]} among them, and a "
                "source is one: write a manifest for each"
            )
    cameras = _numbers(_texts(file, table, "camera")) if "camera" in table else None
    times = _times(file, table["time"]) if "time" in table else None

    def part(split: str) -> Crops:
        rows = [row for row, its in enumerate(splits) if its == split]
        return crops(
            name,
            [images[row] for row in rows],
            [identities[row] for row in rows],
            [row + 1 if cameras is None else cameras[row] for row in rows],
            None if times is None else [times[row] for row in rows],
        )

    return Domain(name, part(TRAIN), part(QUERY), part(GALLERY))


def _read(file: Path) -> Table:
    """Return the columns of a file, with their values as they stand."""
    kind = file.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise ValueError(f"{file} ends in {kind or 'nothing'}, and a manifest is {HOLDS}")
    try:
        schema, batches = (_opened_csv if kind == ".csv" else _opened_parquet)(file)
        _check_columns(file, schema)
        table: dict[str, list[Value]] = {name: [] for name in schema.names}
        for batch in batches:
            for name, column in zip(schema.names, batch.columns, strict=True):
                table[name] += column.to_pylist()
            if len(table["path"]) > MAX_ROWS:
                raise ValueError(f"{file} has more than {MAX_ROWS:,} rows: divide it")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is not readable as {kind[1:]}: {reason}") from None
    return table


def _opened_csv(file: Path) -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
    # As text: 007 and 7 may be two people.
    text = csv.ConvertOptions(column_types=dict.fromkeys((*NEEDED, *OPTIONAL), pa.string()))
    reader = csv.open_csv(file, convert_options=text)
    return reader.schema, reader


def _opened_parquet(file: Path) -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
    opened = parquet.ParquetFile(file)
    return opened.schema_arrow, opened.iter_batches()


def _check_columns(file: Path, schema: pa.Schema) -> None:
    known = (*NEEDED, *OPTIONAL)
    for name in NEEDED:
        if name not in schema.names:
            raise ValueError(
                f"{file} has no column {name} among {', '.join(schema.names[:9])}: a manifest is "
                f"{HOLDS}"
            )
    for name, kind in zip(schema.names, schema.types, strict=True):
        if name not in known or schema.names.count(name) > 1:
            raise ValueError(
                f"{file} has a column {name!r} too many; columns are {', '.join(known)}: rename or "
                "remove it"
            )
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(
            test(plain)
            for test in (
                pa.types.is_string,
                pa.types.is_large_string,
                pa.types.is_integer,
                pa.types.is_floating,
                pa.types.is_null,
            )
        ):
            raise ValueError(f"{file} has {kind} in the column {name}: write text or numbers")


def _images(file: Path, paths: Sequence[Value]) -> list[Path]:
    """Return the absolute paths of the images, each of them a file of its own."""
    row_of: dict[Path, int] = {}
    for row, path in enumerate(paths, start=1):
        if not isinstance(path, str) or not path:
            raise ValueError(f"{file} has no path in row {row}: fill it in")
        image = Path(os.path.normpath(file.parent / path))
        if image in row_of:
            raise ValueError(
                f"{file} lists {path} in row {row}, and in row {row_of[image]} as well: remove one"
            )
        if not image.is_file():
            raise FileNotFoundError(f"there is no image at {image}, row {row} of {file}")
        row_of[image] = row
    folders = {image.parent for image in row_of} | {file.parent}
    for folder in sorted(folders.union(*(folder.parents for folder in folders))):
        opened_root(folder)
    return list(row_of)


def _texts(file: Path, table: Table, column: str) -> list[str]:
    """Return a column as text, which no row may lack."""
    texts = []
    for row, value in enumerate(table[column], start=1):
        if isinstance(value, float) and not math.isnan(value):
            raise ValueError(
                f"{file} has {value} as {column} in row {row}: write text or whole numbers"
            )
        text = "" if value is None or isinstance(value, float) else str(value).strip()
        if not text:
            raise ValueError(f"{file} has no {column} in row {row}: fill it in, or remove the row")
        # Some systems write letters and their accents apart: the name is the same.
        texts.append(unicodedata.normalize("NFC", text))
    return texts


def _numbers(texts: Sequence[str]) -> list[int]:
    """Return whole numbers as they are; other names as numbers from 1, in sorted order."""
    names = sorted(set(texts))
    if all(_WHOLE.fullmatch(name) for name in names):
        return [int(text) for text in texts]
    number = {name: n for n, name in enumerate(names, start=1)}
    return [number[text] for text in texts]


def _check(file: Path, identities: Sequence[int], splits: Sequence[str]) -> None:
    for row, (identity, split) in enumerate(zip(identities, splits, strict=True), start=1):
        if split not in SPLITS:
            raise ValueError(
                f"{file} has {split!r} as split in row {row}: write {', '.join(SPLITS)}"
            )
        if identity < NOBODY:
            raise ValueError(
                f"{file} has the identity {identity} in row {row}: people count from 1 (leave out "
                "crops that are neither right nor wrong)"
            )
        if identity == NOBODY and split != GALLERY:
            raise ValueError(
                f"{file} has the identity 0 in row {row}, which is nobody and belongs in the "
                "gallery alone: number people from 1"
            )
    there = set(splits)
    if (QUERY in there) != (GALLERY in there):
        raise ValueError(f"{file} has rows of only one of query and gallery: add the other")


def _times(file: Path, values: Sequence[Value]) -> list[float]:
    times = []
    for row, value in enumerate(values, start=1):
        try:
            time = float(value) if value is not None else math.nan
        except ValueError:
            time = math.nan
        if not math.isfinite(time):
            raise ValueError(f"{file} has {value!r} as time in row {row}: write seconds")
        times.append(time)
    return times


MANIFEST = Layout(read_manifest, HOLDS)
