"""What only the embedded store has to bear: damage to its files, a full disk, a kill."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rayreid.serve.galleries.opening import open_store
from rayreid.serve.galleries.records import (
    BrokenError,
    FullError,
    GalleryLimits,
    Removal,
    Sample,
    UnavailableError,
)
from rayreid.serve.galleries.sqlite import SqliteStore
from tests.serve.galleries.conftest import LIMITS
from tests.serve.galleries.test_conformance import BINDING, MADE_BY, enrol

SHAPE = (512,)
MANY = GalleryLimits()


def filled(folder: Path, count: int = 200) -> SqliteStore:
    store = SqliteStore(folder, MANY, writable=True)
    store.create("hall", BINDING.__class__("tiny", *MADE_BY, SHAPE))
    rows = np.random.default_rng(0).standard_normal((count, *SHAPE)).astype(np.float32)
    samples = [Sample(f"s{i:04}", f"p{i // 4}") for i in range(count)]
    store.enrol("hall", samples, rows, *MADE_BY)
    return store


def file_of(folder: Path) -> Path:
    (path,) = folder.glob("*.gallery")
    return path


@pytest.mark.parametrize("where", ["header", "pages", "end", "emptied", "text"])
def test_a_damaged_file_is_told_in_one_sentence(tmp_path: Path, where: str) -> None:
    store = filled(tmp_path)
    store.create("other", BINDING)
    enrol(store, "anna-0", name="other")
    path = store.tables("hall").database.path
    store.close()
    contents = bytearray(path.read_bytes())
    if where == "header":
        contents[:4096] = os.urandom(4096)
    elif where == "pages":
        for start in range(16384, len(contents), 16384):
            contents[start : start + 64] = os.urandom(64)
    elif where == "end":
        del contents[len(contents) // 2 :]
    elif where == "emptied":
        contents = bytearray(len(contents))
    else:
        contents = bytearray(b"not a database " * 1000)
    path.write_bytes(contents)
    store = SqliteStore(tmp_path, LIMITS, writable=True)
    for _ in range(2):
        with pytest.raises(BrokenError, match="is damaged") as caught:
            store.gallery("hall")
        assert "\n" not in str(caught.value)
    with pytest.raises(BrokenError, match="is damaged"):
        store.enrol("hall", [Sample("x", "x")], np.ones((1, *SHAPE), np.float32), *MADE_BY)
    # Others are as they were, and the damaged file is not written over.
    assert store.names() == ["other"]
    enrol(store, "bo-0", name="other")
    with pytest.raises(BrokenError, match="move it away first"):
        store.create("hall", BINDING)
    assert path.read_bytes() == bytes(contents)
    store.close()


def test_any_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    store = filled(tmp_path, 40)
    wanted = store.samples("hall", None, "", 99)
    ids = [sample.id for sample in wanted]
    rows = store.embeddings("hall", ids)
    store.close()
    path, draws, noticed = file_of(tmp_path), np.random.default_rng(0), 0
    whole = path.read_bytes()
    for at in draws.integers(0, len(whole), 60).tolist():
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(draws.integers(0, 8))
        path.write_bytes(damaged)
        store = SqliteStore(tmp_path, LIMITS, writable=True)
        try:
            assert store.samples("hall", None, "", 99) == wanted, at
            np.testing.assert_array_equal(store.embeddings("hall", ids), rows)
        except BrokenError:
            noticed += 1
        finally:
            store.close()
    # Others are where nothing is, or tell what comes next for writers.
    assert noticed > 15


def test_what_was_left_unfinished_is_removed(tmp_path: Path) -> None:
    for name in ("x.draft", "x.draft-wal"):
        (tmp_path / name).write_bytes(b"half a gallery")
    store = SqliteStore(tmp_path, LIMITS, writable=True)
    assert store.names() == []
    assert not list(tmp_path.glob("*.draft*"))
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the root of a disk of four megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.getuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_refuses_and_goes_on_reading(small_disk: Path) -> None:
    folder = small_disk / "galleries"
    store = filled(folder, 200)
    reader = open_store(str(folder), LIMITS, writable=False)
    rows, done = np.ones((50, *SHAPE), np.float32), 200

    def fill() -> None:
        nonlocal done
        for step in range(100):
            samples = [Sample(f"t{step}-{i}", "crowd") for i in range(50)]
            store.enrol("hall", samples, rows, *MADE_BY)
            done += 50

    with pytest.raises(FullError, match="no space is left on the disk") as caught:
        fill()
    assert "\n" not in str(caught.value)
    assert done > 200
    for opened in (store, reader):
        assert opened.gallery("hall").samples == done
        assert len(opened.samples("hall", None, "", 9999)) == done
        opened.embeddings("hall", ["s0000", "t0-49"])
    with pytest.raises(FullError):
        store.create("another", BINDING)
    # To delete is to write as well; it is told, and done when there is room again.
    with pytest.raises(FullError):
        store.purge("hall", Removal(identities=("crowd",)))
    assert reader.gallery("hall").samples == done
    subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    assert store.purge("hall", Removal(identities=("crowd",))).samples == done - 200
    assert reader.gallery("hall").samples == 200
    enrol_one = [Sample("new", "new")], np.ones((1, *SHAPE), np.float32)
    store.enrol("hall", *enrol_one, *MADE_BY)
    reader.close()
    store.close()


WRITER = """
import sys
import numpy as np
from pathlib import Path
from rayreid.serve.galleries.records import Binding, GalleryLimits, Sample
from rayreid.serve.galleries.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]), GalleryLimits(), writable=True)
if "hall" not in store.names():
    store.create("hall", Binding("tiny", "f00d", "64x32", (512,)))
first = int(sys.argv[2])
print("ready", flush=True)
for number in range(first, first + 100_000):
    row = np.full((1, 512), number, np.float32)
    store.enrol("hall", [Sample(str(number), f"p{number % 7}")], row, "f00d", "64x32")
    print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    draws = np.random.default_rng(0)
    for _ in range(8):
        first = max(acknowledged, default=-1) + 1000
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(float(draws.uniform(0.05, 0.6)))
            writer.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
        store = SqliteStore(tmp_path, GalleryLimits(), writable=True)
        there = {int(sample.id) for sample in store.samples("hall", None, "", 10**6)}
        assert there >= set(acknowledged)
        # At most the one that was under way at each kill is there without an answer.
        assert len(there) <= len(acknowledged) + 8
        rows = store.embeddings("hall", [str(number) for number in acknowledged])
        np.testing.assert_array_equal(rows[:, 0], acknowledged)
        store.close()
    assert len(acknowledged) > 100


def test_a_machine_without_the_folder_says_so_and_not_that_nobody_is_enrolled(
    tmp_path: Path,
) -> None:
    filled(tmp_path / "here").close()
    reader = SqliteStore(tmp_path / "elsewhere", LIMITS, writable=False)
    with pytest.raises(UnavailableError, match=r"no galleries are kept in .*elsewhere"):
        reader.gallery("hall")
    assert not (tmp_path / "elsewhere").exists()
