"""Folders and object stores by one address: what is read, what is refused, in what words."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rayreid.data import storage
from rayreid.data.storage import Storage, below, canonical_address, is_remote, last_part, parted
from tests.store import ObjectStore


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return Storage(str(tmp_path / "new" / "set"))
    store: ObjectStore = request.getfixturevalue("object_store")
    return Storage(canonical_address(store.address(f"storage/{tmp_path.name}")))


def test_files_are_written_and_read(place: Storage) -> None:
    assert place.sizes(["a", "b"]) == {"a": None, "b": None}
    place.write("a", b"0123456789")
    place.write("a", b"012345")
    assert bytes(place.read("a", 6)) == b"012345"
    assert place.sizes(["b", "a"]) == {"b": None, "a": 6}
    with place.opened("a") as stream:
        assert (stream.size(), stream.read_at(2, 3)) == (6, b"34")
    with pytest.raises(ValueError, match=r"/a has 6 bytes, more than the 5 that are read"):
        place.read("a", 5)
    place.remove("a")
    place.remove("a")
    with pytest.raises(FileNotFoundError, match=r"^there is no .*/a: check the address$"):
        place.read("a", 6)


class _FullDisk:
    """A local file system that writes half of what it is given."""

    def create_dir(self, folder: str) -> None:
        Path(folder).mkdir(exist_ok=True)

    @contextmanager
    def open_output_stream(self, path: str) -> Iterator["_FullDisk"]:
        with Path(path).open("wb") as self.file:
            yield self

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        raise OSError("No space left on device")


def test_a_folder_never_shows_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Storage(str(tmp_path))
    place.write("a", b"old")
    with monkeypatch.context() as failing:
        failing.setattr(storage, "_system", lambda _: _FullDisk())
        with pytest.raises(OSError, match=r"/a cannot be used: No space left on device"):
            place.write("a", b"newer")
    assert bytes(place.read("a", 9)) == b"old"
    place.write("a", b"newer")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("address", "canonical"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/a?scheme=http&endpoint_override=host:9000",
         "s3://bucket/a?endpoint_override=host:9000&scheme=http"),
        ("s3://anonymous@bucket/a", "s3://anonymous@bucket/a"),
        ("gs://bucket/a", "gs://bucket/a"),
        ("file:///data/set/", "/data/set"),
        ("/data/../data/set", "/data/set"),
    ],
)  # fmt: skip
def test_an_address_has_one_form(address: str, canonical: str) -> None:
    assert canonical_address(address) == canonical
    assert canonical_address(canonical) == canonical
    assert is_remote(canonical) == canonical.startswith(("s3:", "gs:"))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://host/a", r"http:// is no store that is read; give a folder, s3://"),
        ("s3:///a", r"'s3:///a' is no address; write s3://bucket/prefix"),
        ("s3://bucket/a#b", r"is no address"),
        ("s3://bucket/a?profile=me", r"has no option 'profile'; there are endpoint_override"),
        ("s3://bucket/a?access_key=TOPSECRET", r"given with access_key: put it into the envir"),
        ("s3://TOPSECRET:TOPSECRET@bucket/a", r"given with credentials: put them into the env"),
        ("s3://TOPSECRET@bucket/a", r"given with credentials"),
    ],
)
def test_what_is_no_address_is_refused_without_repeating_secrets(address: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        canonical_address(address)
    assert "TOPSECRET" not in str(refused.value)


def test_parts_of_an_address() -> None:
    assert last_part("s3://bucket/sets/Market-1501?scheme=http") == "Market-1501"
    assert last_part("s3://bucket?scheme=http") == "bucket"
    assert last_part("/data/Market-1501") == "Market-1501"
    assert below("s3://bucket/sets?scheme=http", "a") == "s3://bucket/sets/a?scheme=http"
    assert below("/data", "a") == "/data/a"
    assert parted(below("s3://bucket/sets?scheme=http", "a")) == (
        "s3://bucket/sets?scheme=http",
        "a",
    )


@pytest.mark.parametrize(("key", "secret"), [(None, "wrong"), ("AKIAUNKNOWN", "wrong")])
def test_a_wrong_key_is_told_without_the_key(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, key: str | None, secret: str
) -> None:
    if key:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    place = Storage(canonical_address(object_store.address("keys")))
    for act in (
        lambda: place.read("a", 9),
        lambda: place.write("a", b"a"),
        lambda: place.sizes(["a"]),
    ):
        with pytest.raises(OSError, match=r"cannot be used: the store refuses the cred") as told:
            act()
        assert "\n" not in str(told.value)
        for word in (object_store.key, secret, "AKIA"):
            assert word not in str(told.value)


def test_a_bucket_that_is_not_there_is_told(object_store: ObjectStore) -> None:
    address = object_store.address("a").replace("reid", "nobody", 1)
    with pytest.raises(OSError, match=r"^s3://nobody/a/x cannot be used: there is no such bucket"):
        Storage(canonical_address(address)).write("x", b"x")
    with pytest.raises(FileNotFoundError, match=r"^there is no s3://nobody/a/x"):
        Storage(canonical_address(address)).read("x", 9)


@pytest.mark.parametrize("listening", [False, True])
def test_a_server_that_does_not_answer_is_told_in_time(
    monkeypatch: pytest.MonkeyPatch, listening: bool
) -> None:
    for name, value in (("CONNECT_SECONDS", 1), ("SILENT_SECONDS", 1), ("ATTEMPTS", 1)):
        monkeypatch.setattr(storage, name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listening:  # and never answering
            server.listen()
        address = f"s3://b/x?endpoint_override=127.0.0.1:{server.getsockname()[1]}&scheme=http"
        with pytest.raises(OSError, match=r"no answer in 1 attempts \(.*\); check the endpoint"):
            Storage(canonical_address(address)).read("a", 9)


def test_the_region_of_a_bucket_is_asked_for_where_nobody_says_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def resolve(bucket: str) -> str:
        asked.append(bucket)
        return "eu-south-2"

    monkeypatch.setattr(storage.fs, "resolve_s3_region", resolve)
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    assert storage._system("s3://anonymous@one/a").region == "eu-south-2"
    assert storage._system("s3://anonymous@two/a?region=eu-west-1").region == "eu-west-1"
    storage._system("s3://anonymous@three/a?endpoint_override=localhost:1")
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    assert storage._system("s3://anonymous@four/a").region == "us-west-2"
    assert asked == ["one"]


def test_a_google_bucket_is_another_file_system() -> None:
    assert storage._system("gs://anonymous@bucket/a").type_name == "gcs"


def test_google_credentials_that_are_missing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a metadata server to ask, which is only there on Google's machines.
    monkeypatch.setenv("GCE_METADATA_ROOT", "127.0.0.1:9")
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    options = "endpoint_override=127.0.0.1:9&scheme=http&retry_limit_seconds=1"
    with pytest.raises(OSError, match="no Google credentials are found") as caught:
        Storage(f"gs://bucket/a?{options}").read("file", 10)
    assert "google::" not in str(caught.value)


def test_a_google_server_that_does_not_answer_is_told_in_time() -> None:
    options = "endpoint_override=127.0.0.1:9&scheme=http&retry_limit_seconds=1"
    with pytest.raises(OSError, match="no answer before retry_limit_seconds"):
        Storage(f"gs://anonymous@bucket/a?{options}").read("file", 10)
