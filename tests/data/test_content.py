"""Hashes of crops: right, remembered where that pays, and read again where that is safer."""

import hashlib
import logging
import os
import sqlite3
import time
from pathlib import Path

import pytest

from rayreid.data import content
from rayreid.data.content import UNREADABLE, content_hashes, joint_hash

LONG_AGO = time.time() - 3600


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return enough files to be remembered, which nobody has touched for an hour."""
    monkeypatch.setattr(content, "REMEMBERED_FROM", 8)
    monkeypatch.setattr(content, "_AT_ONCE", 3)
    paths = [tmp_path / f"{i}.jpg" for i in range(8)]
    for i, path in enumerate(paths):
        path.write_bytes(b"crop %d" % i)
        os.utime(path, (LONG_AGO, LONG_AGO))
    return paths


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "new" / "hashes.sqlite"


def expected(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the files that have been read."""
    seen: list[Path] = []
    hash_of = content._hash

    def noted(image: Path) -> str:
        seen.append(image)
        return hash_of(image)

    monkeypatch.setattr(content, "_hash", noted)
    return seen


def test_hashes_are_of_what_the_files_hold(files: list[Path], memory: Path) -> None:
    for place in (None, memory, memory):
        assert content_hashes(files[::-1], place) == expected(files)[::-1]
    assert content_hashes([], memory) == []
    assert joint_hash(expected(files)) != joint_hash(expected(files)[::-1])


def test_a_file_is_read_once_and_again_when_it_has_changed(
    files: list[Path], memory: Path, read: list[Path]
) -> None:
    content_hashes(files, memory)
    assert sorted(read) == sorted(files)
    read.clear()
    content_hashes(files, memory)
    assert not read
    files[2].write_bytes(b"crop X")  # as long, at another time
    os.utime(files[2], (LONG_AGO + 1, LONG_AGO + 1))
    files[3].write_bytes(b"longer than it was")
    os.utime(files[3], (LONG_AGO, LONG_AGO))
    assert content_hashes(files, memory) == expected(files)
    assert sorted(read) == files[2:4]


def test_what_has_just_changed_is_not_remembered(
    files: list[Path], memory: Path, read: list[Path]
) -> None:
    files[4].touch()
    content_hashes(files, memory)
    read.clear()
    content_hashes(files, memory)
    assert read == [files[4]]


def test_few_files_leave_nothing_behind(files: list[Path], memory: Path) -> None:
    content_hashes(files[:7], memory)
    assert not memory.parent.exists()


def test_what_cannot_be_read_is_left_to_the_decoder(files: list[Path], memory: Path) -> None:
    before = expected(files)
    files[0].unlink()
    files[1].unlink()
    files[1].mkdir()
    files[2].unlink()
    os.mkfifo(files[2])  # which nobody writes to
    for place in (None, memory, memory):
        assert content_hashes(files, place) == [UNREADABLE] * 3 + before[3:]
    for place in files[:3]:
        (place.rmdir if place.is_dir() else place.unlink)() if place.exists() else None
    files[0].write_bytes(b"crop 0")
    os.utime(files[0], (LONG_AGO, LONG_AGO))
    assert content_hashes(files, memory)[0] == before[0]


def test_a_damaged_memory_is_made_again(
    files: list[Path], memory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory.parent.mkdir()
    memory.write_bytes(b"this is no database, and never was one" * 100)
    with caplog.at_level(logging.WARNING):
        assert content_hashes(files, memory) == expected(files)
    assert "cannot be used" in caplog.text
    assert content_hashes(files, memory) == expected(files)
    with sqlite3.connect(memory) as table:
        assert table.execute("SELECT count(*) FROM files").fetchone() == (8,)
    table.close()


def test_a_memory_that_cannot_be_written_is_done_without(
    files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert content_hashes(files, tmp_path / "file" / "hashes") == expected(files)
    assert "cannot be used" in caplog.text
    locked = tmp_path / "folder"
    locked.mkdir()
    assert content_hashes(files, locked) == expected(files)
    assert locked.is_dir()


def test_what_could_not_be_read_once_is_read_again(
    files: list[Path], memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as failing:
        failing.setattr(content, "_hash", lambda _: UNREADABLE)
        assert content_hashes(files, memory) == [UNREADABLE] * 8
    assert content_hashes(files, memory) == expected(files)
