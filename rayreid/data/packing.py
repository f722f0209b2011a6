"""Packing: a data set is written as Parquet shards, which any node can read by one address."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from PIL import Image
from pydantic import Field

from rayreid.batch import Crops, Domain, Picture
from rayreid.data.content import labelled_hash
from rayreid.data.loading import LoadingSettings
from rayreid.data.packed import (
    FORMAT,
    MANIFEST,
    PARTS,
    SCHEMA,
    Manifest,
    PartCount,
    ShardEntry,
    read_manifest,
)
from rayreid.data.scanning import read_image
from rayreid.data.sources import SyntheticSettings, canonical, domain_name, open_source
from rayreid.data.storage import Storage, below, canonical_address
from rayreid.settings import Settings, checked

UNFINISHED = "unfinished.json"
"""Lists the shards that are there already, until the manifest does."""

_AT_ONCE = 256
"""Images that are read at a time, on a few threads."""

_COMPRESSION = {name: "none" if name == "image" else "zstd" for name in SCHEMA.names}
"""Images are compressed already."""


class PackSettings(Settings):
    """How data sets are packed."""

    shard_mib: float = Field(128, gt=0, le=1024)
    """Size of a shard, in MiB: one is read at a time."""
    loading: LoadingSettings = LoadingSettings()
    """Resolution of drawn domains; the images of others are packed as they are."""
    synthetic: SyntheticSettings = SyntheticSettings()
    """Size and difficulty of drawn domains."""


def pack(
    source: str,
    to: str,
    settings: PackSettings,
    *,
    progress: Callable[[int], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> tuple[str, Manifest]:
    """Write a source below an address, as a packed set with the domain's name.

    The manifest is written last. What is there whole is left as it is, so the same call again
    goes on where the last one stopped. ``progress`` is called with the number of crops done since
    its last call, ``tell`` with a line a shard. Returns the set's own address and its manifest.

    Raises what opening the source raises; `ValueError` where another set is at the address, an
    image is too large, or the source changes meanwhile; `OSError`, in a sentence, where the
    store is out of reach.
    """
    source = canonical(source)
    address = below(canonical_address(to), domain_name(source))
    domain = open_source(source, settings.loading, settings.synthetic)
    packing = _Packing(Storage(address), int(settings.shard_mib * 2**20), tell or (lambda _: None))
    fingerprint = packing.write(domain, progress or (lambda _: None))
    drawn = isinstance(domain.train.images, np.ndarray)
    if not drawn and fingerprint != domain.fingerprint:
        raise ValueError(f"{source} changed while it was packed: run the same command again")
    manifest = Manifest(
        format=FORMAT,
        domain=domain.name,
        layout=source.partition("=")[0],
        fingerprint=fingerprint,
        parts={part: _count(getattr(domain, part)) for part in PARTS},
        shards=tuple(packing.written),
    )
    packing.conclude(manifest)
    return address, manifest


def _count(crops: Crops) -> PartCount:
    people, cameras = (len(np.unique(column)) for column in (crops.identities, crops.cameras))
    return PartCount(crops=len(crops), people=people, cameras=cameras)


@dataclass
class _Packing:
    """Shards on their way into a storage."""

    storage: Storage
    shard_bytes: int
    tell: Callable[[str], None]
    written: list[ShardEntry] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            self.manifest: Manifest | None = read_manifest(self.storage)
        except FileNotFoundError:
            self.manifest = None
        listed = self.manifest.shards if self.manifest else self._unfinished()
        sizes = self.storage.sizes([entry.file for entry in listed])
        self.listed = {entry.file: entry for entry in listed}
        self.whole = {entry.file for entry in listed if sizes[entry.file] == entry.bytes}

    def _unfinished(self) -> list[ShardEntry]:
        """Return the shards of a call that was interrupted."""
        try:
            found = json.loads(bytes(self.storage.read(UNFINISHED, 2**26)))
            return [checked(ShardEntry, entry) for entry in found]
        except (FileNotFoundError, ValueError, TypeError):
            return []  # nothing there, or nothing that can be gone on with

    def write(self, domain: Domain, progress: Callable[[int], None]) -> str:
        """Write all shards; return the fingerprint of what is in them."""
        seen = []
        for part in PARTS:
            crops: Crops = getattr(domain, part)
            hashes: list[str] = []
            for number, table in enumerate(self._tables(part, crops, progress)):
                self._write_shard(f"{part}-{number:05}.parquet", table)
                hashes += table["sha256"].to_pylist()
            # The hashes stand for the images, drawn ones too: they are encoded now.
            seen.append((replace(crops, images=[]), hashes))
        return labelled_hash(seen)

    def _tables(
        self, part: str, crops: Crops, progress: Callable[[int], None]
    ) -> Iterator[pa.Table]:
        """Yield the rows of each shard of a part."""
        names, data, size, start = _names(crops), [], 0, 0
        for image in _encoded(crops):
            data.append(image)
            size += len(image)
            progress(1)
            if size >= self.shard_bytes:
                yield _table(part, crops, names, start, data)
                start, data, size = start + len(data), [], 0
        if data:
            yield _table(part, crops, names, start, data)

    def _write_shard(self, file: str, table: pa.Table) -> None:
        content = _content(table)
        before = self.listed.get(file)
        if self.manifest and (before is None or before.content != content):
            raise self._another()
        if before and before.content == content and file in self.whole:
            self.written.append(before)
            self.tell(f"{file}: there already")
            return
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression=_COMPRESSION, use_dictionary=["domain", "split"],
                       write_statistics=["identity", "camera", "time"])  # fmt: skip
        shard = sink.getvalue()
        self.storage.write(file, shard)
        entry = ShardEntry(
            file=file,
            rows=len(table),
            bytes=shard.size,
            sha256=hashlib.sha256(shard).hexdigest(),
            content=content,
        )
        self.written.append(entry)
        self.tell(f"{file}: {len(table)} crops, {shard.size / 2**20:.1f} MiB")
        if self.manifest is None:
            self.storage.write(UNFINISHED, _json([e.model_dump() for e in self.written]))

    def conclude(self, manifest: Manifest) -> None:
        """Write the manifest, unless it is there, and remove what it makes needless."""
        if self.manifest and self.manifest.fingerprint != manifest.fingerprint:
            raise self._another()
        if self.manifest is None or self.manifest.shards != manifest.shards:
            self.storage.write(MANIFEST, _json(manifest.model_dump()))
        for file in (UNFINISHED, *(self.listed.keys() - {shard.file for shard in manifest.shards})):
            self.storage.remove(file)

    def _another(self) -> ValueError:
        return ValueError(
            f"{self.storage.public} holds another packed set, or this one in shards of another "
            "size: give another --to, or remove it"
        )


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _names(crops: Crops) -> list[str]:
    """Return the names of the crops' files, with their folders from where these part."""
    if isinstance(crops.images, np.ndarray):
        return [f"{i:06}.png" for i in range(len(crops))]
    folders = {image.parent for image in crops.images if isinstance(image, Path)}
    common = Path(os.path.commonpath(folders)) if folders else Path()
    return [
        image.relative_to(common).as_posix() if isinstance(image, Path)
        else getattr(image, "crop", image.name)
        for image in crops.images
    ]  # fmt: skip


def _encoded(crops: Crops) -> Iterator[bytes]:
    """Yield the images as they are in their files; drawn ones as PNG."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(crops), _AT_ONCE):
            images = crops.images[start : start + _AT_ONCE]
            yield from pool.map(_bytes_of, images)


def _bytes_of(image: Path | Picture | UInt8[np.ndarray, "h w 3"]) -> bytes:
    if isinstance(image, np.ndarray):
        png = BytesIO()
        Image.fromarray(image).save(png, "PNG")
        return png.getvalue()
    try:
        return read_image(image)
    except ValueError as error:
        raise ValueError(f"{image} cannot be packed, as {error}") from None


def _table(
    part: str, crops: Crops, names: Sequence[str], start: int, data: Sequence[bytes]
) -> pa.Table:
    rows = slice(start, start + len(data))
    columns = {
        "image": data,
        "name": names[rows],
        "identity": crops.identities[rows],
        "camera": crops.cameras[rows],
        "domain": [crops.domain] * len(data),
        "split": [part] * len(data),
        "time": [None] * len(data) if crops.times is None else crops.times[rows],
        "sha256": [hashlib.sha256(image).hexdigest() for image in data],
    }
    return pa.table(columns, schema=SCHEMA)


def _content(table: pa.Table) -> str:
    """Return the hash of a shard's rows; the images count by their own hashes."""
    digest = hashlib.sha256(f"{FORMAT}".encode())
    for name in SCHEMA.names[1:]:
        digest.update(json.dumps([name, table[name].to_pylist()]).encode())
    return digest.hexdigest()
