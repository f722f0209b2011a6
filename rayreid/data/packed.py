"""Packed sets: crops and labels in Parquet shards, in a folder or an object store."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from rayreid.batch import Crops, Domain, Picture
from rayreid.data.content import fingerprint
from rayreid.data.storage import Storage
from rayreid.settings import Settings, checked

FORMAT = 1
"""Raised when what is written can no longer be read by earlier releases."""

MANIFEST = "manifest.json"
"""Written last: without it there is no set, only parts of one."""

Part = Literal["train", "query", "gallery"]
PARTS: tuple[Part, ...] = ("train", "query", "gallery")

SCHEMA = pa.schema(
    [
        pa.field("image", pa.binary(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("identity", pa.int64(), nullable=False),
        pa.field("camera", pa.int64(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("time", pa.float64()),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)
"""Columns of a shard: the encoded image as it was, its labels (time in seconds, null where the set
does not tell it), and the image's SHA-256 in hexadecimal."""

LABELS = ("name", "identity", "camera", "time", "sha256")
MAX_SHARD_BYTES = 2**31 - 1
"""Larger shards are neither written nor read: one is held in memory, under 32-bit offsets."""
MAX_MANIFEST_BYTES = 64 * 2**20

_SHA256 = r"^[0-9a-f]{64}$"
_KEPT = 2
"""Shards in memory at a time: while the last crops of one are decoded, the next is there."""


class ShardEntry(Settings):
    """What the manifest says of a shard."""

    file: str = Field(pattern=r"^(train|query|gallery)-\d{5}\.parquet$")
    """Name, beside the manifest."""
    rows: int = Field(ge=1, le=10**8)
    """Crops in it."""
    bytes: int = Field(ge=1, le=MAX_SHARD_BYTES)
    """Size of the file."""
    sha256: str = Field(pattern=_SHA256)
    """Hash of the file."""
    content: str = Field(pattern=_SHA256)
    """Hash of its images and labels, whatever release wrote them."""

    @property
    def part(self) -> str:
        """Return which part of the set its crops are of."""
        return self.file.partition("-")[0]


class PartCount(Settings):
    """Size of a part."""

    crops: int = Field(ge=0)
    """Crops."""
    people: int = Field(ge=0)
    """Identities, distractors among them."""
    cameras: int = Field(ge=0)
    """Cameras."""


class Manifest(Settings):
    """What a packed set is."""

    format: int = Field(ge=1)
    """Version of this grammar."""
    domain: str
    """Name of the data set."""
    layout: str
    """Layout, with its options, that it was read with."""
    fingerprint: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Hash of its crops and labels (`rayreid.data.content.fingerprint`)."""
    parts: Mapping[Part, PartCount]
    """Sizes of the parts."""
    shards: tuple[ShardEntry, ...] = Field(min_length=1, max_length=10**5)
    """The shards, in the order of the crops."""


def read_manifest(storage: Storage) -> Manifest:
    """Return the manifest of a packed set.

    Raises `FileNotFoundError` where there is none, `ValueError` for one that is damaged, or of a
    newer format.
    """
    where = storage.where(MANIFEST)
    try:
        data = storage.read(MANIFEST, MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no packed set at {storage.public} (no {MANIFEST}, which is written last): "
            "check the address, or run its `rayreid data pack` again, which goes on"
        ) from None
    try:
        tree = json.loads(bytes(data))
        written = int(tree["format"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"{where} is no manifest of a packed set: pack the set again") from None
    if written > FORMAT:
        raise ValueError(
            f"{where} is of format {written}, and this release reads up to {FORMAT}: update rayreid"
        )
    try:
        return checked(Manifest, tree)
    except ValueError as error:
        raise ValueError(f"{where} is damaged ({error}): pack the set again") from None


@dataclass(frozen=True)
class Shard:
    """A Parquet file of a packed set."""

    storage: Storage
    entry: ShardEntry

    @property
    def where(self) -> str:
        """Return its address, for messages."""
        return self.storage.where(self.entry.file)

    def labels(self) -> pa.Table:
        """Return the columns but the images, of which nothing is fetched."""
        with self.storage.opened(self.entry.file) as stream:
            self._refuse_size(stream.size())
            return self._table(stream, LABELS)

    def images(self) -> pa.Array:
        """Return the encoded images, the file read whole and compared with its hash."""
        data = self.storage.read(self.entry.file, MAX_SHARD_BYTES)
        self._refuse_size(data.size)
        if hashlib.sha256(data).hexdigest() != self.entry.sha256:
            raise ValueError(
                f"{self.where} is not what the manifest lists (its SHA-256 is another): it was "
                "replaced or damaged; pack the set again"
            )
        with self.storage.told(self.entry.file):
            return self._table(pa.BufferReader(data), ["image"])["image"].combine_chunks()

    def _refuse_size(self, size: int) -> None:
        if size != self.entry.bytes:
            state = "is cut short" if size < self.entry.bytes else "was replaced"
            raise ValueError(
                f"{self.where} {state}: it has {size:,} bytes and the manifest lists "
                f"{self.entry.bytes:,}; pack the set again"
            )

    def _table(self, source: object, columns: Sequence[str]) -> pa.Table:
        try:
            file = pq.ParquetFile(source)
            if file.metadata.num_rows != self.entry.rows:
                raise pa.ArrowInvalid(f"{file.metadata.num_rows} rows, not {self.entry.rows}")
            groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
            if sum(group.total_byte_size for group in groups) > 2 * MAX_SHARD_BYTES:
                raise pa.ArrowInvalid("its columns unpack to gigabytes")
            table = file.read(columns=list(columns))
            return table.select(columns).cast(pa.schema([SCHEMA.field(name) for name in columns]))
        except (pa.ArrowException, KeyError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{self.where} is no shard of a packed set ({reason}): pack the set again"
            ) from None


_loading = threading.Lock()


@lru_cache(maxsize=_KEPT)
def _kept_images(shard: Shard) -> pa.Array:
    return shard.images()


def images_of(shard: Shard) -> pa.Array:
    """Return the encoded images of a shard; the last ones asked for are kept in memory."""
    # Without the lock, threads that decode neighbours would each fetch the same shard.
    with _loading:
        return _kept_images(shard)


@dataclass(frozen=True, slots=True)
class PackedPicture:
    """An encoded image in a shard."""

    shard: Shard
    row: int
    crop: str
    """Its name in the set."""
    sha256: str

    @property
    def name(self) -> str:
        """Return where it is, for messages."""
        return f"{self.crop} (row {self.row} of {self.shard.where})"

    def read(self) -> bytes:
        """Return the image; reading in order fetches each shard once. Errors as `Shard`'s."""
        data: bytes = images_of(self.shard)[self.row].as_py()
        return data


def by_shard(images: Sequence[Path | Picture], most: int) -> Iterator[Sequence[Path | Picture]]:
    """Yield consecutive images, at most ``most`` at a time, each time of one shard, if of any.

    The shard has been fetched by then, so that reading its images does not fail: a store that is
    out of reach is no broken crop.
    """
    for shard, group in groupby(images, _shard):
        if shard is not None:
            images_of(shard)
        together = list(group)
        for start in range(0, len(together), most):
            yield together[start : start + most]
    _kept_images.cache_clear()


def _shard(image: Path | Picture) -> Shard | None:
    return image.shard if isinstance(image, PackedPicture) else None


def read_packed(address: str, name: str) -> Domain:
    """Return the packed set at an address, under a name; no image is fetched yet.

    Raises `FileNotFoundError`, `OSError` or `ValueError`, in a sentence, where there is no whole
    set, its store is out of reach, or its labels are not what the manifest lists.
    """
    storage = Storage(address)
    manifest = read_manifest(storage)
    shards = [Shard(storage, entry) for entry in manifest.shards]
    with ThreadPoolExecutor(min(8, len(shards))) as pool:
        tables = list(pool.map(Shard.labels, shards))

    def crops(part: Part) -> Crops:
        own = [i for i, shard in enumerate(shards) if shard.entry.part == part]
        return _crops(name, [shards[i] for i in own], [tables[i] for i in own])

    train, query, gallery = map(crops, PARTS)
    domain = Domain(name, train, query, gallery)
    if fingerprint(domain) != manifest.fingerprint:
        raise ValueError(
            f"the labels at {storage.public} are not those that its manifest lists: a shard was "
            "replaced; pack the set again"
        )
    return domain


def _crops(domain: str, shards: Sequence[Shard], tables: Sequence[pa.Table]) -> Crops:
    pictures: list[Picture] = []
    for shard, table in zip(shards, tables, strict=True):
        named = zip(table["name"].to_pylist(), table["sha256"].to_pylist(), strict=True)
        pictures += [PackedPicture(shard, row, *told) for row, told in enumerate(named)]
    whole = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    times = whole["time"]
    return Crops(
        domain,
        pictures,
        whole["identity"].to_numpy().astype(np.int64),
        whole["camera"].to_numpy().astype(np.int64),
        None if times.null_count or not len(times) else times.to_numpy().astype(np.float64),
    )
