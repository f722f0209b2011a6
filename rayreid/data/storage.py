"""Folders and object stores by one address, with bounded waits and errors in a sentence."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

import pyarrow as pa
from pyarrow import fs

OPTIONS = {
    "s3": ("endpoint_override", "scheme", "region"),
    "gs": ("endpoint_override", "scheme", "retry_limit_seconds"),
}
"""What may follow the ``?`` of an address; credentials come from the environment alone."""

CONNECT_SECONDS, SILENT_SECONDS, ATTEMPTS = 5, 10, 3
"""How long a connection may take to open, or to send a byte, and how often each is tried."""

PATIENT = 30
"""How often Ray's own files of a run are tried: for minutes, while workers wait."""

BLOCK = 16 * 2**20
"""Bytes of a file that are in memory while it is copied."""

_REFUSED = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "INVALID_SIGNATURE",
    "INVALID_CLIENT_TOKEN_ID",
    "UNRECOGNIZED_CLIENT",
    "MISSING_AUTHENTICATION_TOKEN",
    "EXPIRED_TOKEN",
)


@dataclass(frozen=True)
class Storage:
    """Files below an address: an absolute folder, ``s3://bucket/prefix`` or ``gs://bucket/prefix``.

    All that is done raises `FileNotFoundError`, or `OSError`, in a sentence that names the file.
    """

    address: str

    @property
    def public(self) -> str:
        """Return the address without how it is reached, for messages."""
        return without_options(self.address)

    def where(self, file: str) -> str:
        """Return the address of a file, for messages."""
        return f"{self.public}/{file}"

    def read(self, file: str, limit: int) -> pa.Buffer:
        """Return the bytes of a file; `ValueError` for one of more than ``limit`` bytes."""
        with self.opened(file) as stream:
            size = stream.size()
            if size > limit:
                raise ValueError(
                    f"{self.where(file)} has {size:,} bytes, more than the {limit:,} that are read"
                )
            return stream.read_buffer()

    @contextmanager
    def opened(self, file: str) -> Iterator[Any]:
        """Open a file to read parts of it."""
        with self.told(file), self._system.open_input_file(self._path(file)) as stream:
            yield stream

    def write(self, file: str, data: pa.Buffer | bytes) -> None:
        """Write a file: a reader sees all of it or none."""
        with self.told(file):
            if is_remote(self.address):
                # An object comes into being when its upload is complete.
                with self._system.open_output_stream(self._path(file)) as stream:
                    stream.write(data)
                return
            self._system.create_dir(self.address)
            draft = f"{self._path(file)}.draft"
            with self._system.open_output_stream(draft) as stream:
                stream.write(data)
            self._system.move(draft, self._path(file))

    def upload(self, path: Path, file: str) -> None:
        """Write a file from the local one at ``path``, a part at a time, as `write` does.

        Raises `FileNotFoundError` as `open` does where there is no such local file.
        """
        with path.open("rb") as local:
            if not is_remote(self.address):
                self.write(file, local.read())
                return
            with self.told(file), self._system.open_output_stream(self._path(file)) as stream:
                while block := local.read(BLOCK):
                    stream.write(block)

    def download(self, file: str, path: Path) -> None:
        """Write a file into the local one at ``path``, whose folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            self.told(file),
            self._system.open_input_stream(self._path(file)) as stream,
            path.open("wb") as local,
        ):
            while block := stream.read(BLOCK):
                local.write(block)

    def files(self) -> dict[str, int]:
        """Return the bytes of every file below the address, by its name there."""
        top = self._path("").rstrip("/")
        with self.told(""):
            infos = self._system.get_file_info(
                fs.FileSelector(top, recursive=True, allow_not_found=True)
            )
        return {info.path[len(top) + 1 :]: info.size for info in infos if info.is_file}

    def arrow(self) -> tuple[Any, str]:
        """Return Arrow's file system and the path in it, for Ray: one that waits out an outage.

        It travels to other nodes as its address, and finds its credentials there.
        """
        return _system(self.address, PATIENT), self._path("").rstrip("/")

    def remove(self, file: str) -> None:
        """Remove a file, if it is there."""
        if self.sizes([file])[file] is not None:
            with self.told(file):
                self._system.delete_file(self._path(file))

    def sizes(self, files: Sequence[str]) -> dict[str, int | None]:
        """Return the bytes of each file, None where there is no such file."""
        with self.told(""):
            infos = self._system.get_file_info([self._path(file) for file in files])
        return dict(zip(files, (info.size for info in infos), strict=True))

    def _path(self, file: str) -> str:
        if not is_remote(self.address):
            return str(Path(self.address) / file)
        parts = urlsplit(self.address)
        return f"{_bucket(parts)}{parts.path}/{file}"

    @property
    def _system(self) -> Any:
        return _system(self.address)

    @contextmanager
    def told(self, file: str) -> Iterator[None]:
        """Turn what Arrow raises about a file into a sentence, without credentials or requests."""
        where = self.where(file) if file else self.public
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no {where}: check the address") from None
        except (OSError, pa.ArrowInvalid) as error:
            raise OSError(f"{where} cannot be used: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if any(f"AWS Error {code} " in text for code in _REFUSED):
        return (
            "the store refuses the credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "in the environment, on every node, to a key that may read and write there"
        )
    if "AWS Error NO_SUCH_BUCKET " in text:
        return "there is no such bucket; create it, or check the address"
    if "AWS Error NETWORK_CONNECTION " in text:
        return (
            f"no answer in {ATTEMPTS} attempts ({text.rpartition('Details: ')[2]}); check the "
            "endpoint, and whether its server is up"
        )
    if "OAuth2 access token" in text:
        return (
            "no Google credentials are found; set GOOGLE_APPLICATION_CREDENTIALS in the "
            "environment, on every node, or write gs://anonymous@bucket for a public one"
        )
    if "google::cloud::Status(UNAVAILABLE" in text:
        return "no answer before retry_limit_seconds; check the endpoint, and whether it is up"
    return text.partition(" (Request ID")[0].partition(" error_info=")[0]


class _S3(fs.S3FileSystem):
    """Arrow's S3, which would be unpickled with fewer attempts, and without its time limits."""

    made_of: tuple[str, int]

    def __reduce__(self) -> tuple[Any, ...]:
        return _system, self.made_of


@lru_cache(maxsize=16)
def _system(address: str, attempts: int = ATTEMPTS) -> Any:
    """Return the file system of an address; making one asks S3 for credentials, in a second."""
    if not is_remote(address):
        return fs.LocalFileSystem()
    parts = urlsplit(address)
    options = dict(parse_qsl(parts.query))
    if parts.scheme == "gs":
        options.setdefault("retry_limit_seconds", str(attempts * SILENT_SECONDS))
        system, _ = fs.FileSystem.from_uri(f"gs://{parts.netloc}/?{urlencode(options)}")
        return system
    known = {"region", "endpoint_override"} & options.keys()
    if not known and not {"AWS_REGION", "AWS_DEFAULT_REGION"} & os.environ.keys():
        options["region"] = fs.resolve_s3_region(_bucket(parts))
    s3 = _S3(
        anonymous=parts.username == "anonymous",
        connect_timeout=CONNECT_SECONDS,
        request_timeout=SILENT_SECONDS,
        allow_delayed_open=True,  # a small file is one request
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        **options,
    )
    s3.made_of = (address, attempts)
    return s3


def is_remote(address: str) -> bool:
    """Return whether an address is of an object store, not a folder."""
    return address.startswith(("s3://", "gs://"))


def canonical_address(text: str) -> str:
    """Return an address in its one form: folders absolute, stores without a slash at the end.

    Raises `ValueError` for a scheme that is not known, an option that is not, an address without
    a bucket, and for credentials in it: it is written into every run's settings.
    """
    scheme, is_uri, rest = text.partition("://")
    if not is_uri or scheme == "file":
        return str(Path(rest if is_uri else text).expanduser().resolve())
    if scheme not in OPTIONS:
        raise ValueError(
            f"{scheme}:// is no store that is read; give a folder, s3://bucket/prefix or "
            "gs://bucket/prefix"
        )
    parts = urlsplit(text)
    options = dict(parse_qsl(parts.query))
    bucket, public = _bucket(parts), without_options(text)
    if parts.password or (parts.username or "anonymous") != "anonymous":
        raise ValueError(f"{public} was given with credentials: put them into the environment")
    for name in options:
        if name in ("access_key", "secret_key", "session_token"):
            raise ValueError(f"{public} was given with {name}: put it into the environment")
        if name not in OPTIONS[scheme]:
            raise ValueError(
                f"{public} has no option {name!r}; there are {', '.join(OPTIONS[scheme])}"
            )
    if not bucket or parts.fragment:
        raise ValueError(f"{public!r} is no address; write {scheme}://bucket/prefix, without a #")
    user = "anonymous@" if parts.username else ""
    query = f"?{urlencode(sorted(options.items()), safe=':/')}" if options else ""
    return f"{scheme}://{user}{bucket}{parts.path.rstrip('/')}{query}"


def _bucket(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def without_options(address: str) -> str:
    """Return an address without how, and as whom, it is reached."""
    if not is_remote(address):
        return address
    parts = urlsplit(address)
    return f"{parts.scheme}://{_bucket(parts)}{parts.path}"


def last_part(address: str) -> str:
    """Return the name at the end of an address: its folder's, or its bucket's."""
    if not is_remote(address):
        return Path(address).name
    parts = urlsplit(address)
    return PurePosixPath(parts.path).name or _bucket(parts)


def below(address: str, name: str) -> str:
    """Return the address of a folder in another."""
    if not is_remote(address):
        return str(Path(address) / name)
    path, mark, query = address.partition("?")
    return f"{path}/{name}{mark}{query}"


def parted(address: str) -> tuple[str, str]:
    """Return the folder that an address is in, and its name there: what `below` was given.

    Raises `ValueError` for a whole bucket, which is in none.
    """
    path, mark, query = address.partition("?")
    folder, _, name = path.rpartition("/")
    if folder.endswith(":/"):
        raise ValueError(f"{path} is a whole bucket, not a file; write {path}/FILE")
    return folder + mark + query, name
