"""Decoded pixels in the cache: shared, bounded, whole or made again."""

import errno
import fcntl
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rayreid.data import cache as caching
from rayreid.data.cache import MappedPixels, PixelCache, Write, cache_place

SHAPE = (10, 4, 3, 3)
SIZE = 10 * 4 * 3 * 3
GIB = 2**30


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8)


def filling(seed: int = 0, made: list[int] | None = None) -> Callable[[Write], object]:
    """Return what makes the pixels of a seed, in two parts, and counts that it did."""

    def fill(write: Write) -> object:
        if made is not None:
            made.append(seed)
        whole = pixels(seed)
        write(whole[:3])
        write(whole[3:])
        return [[seed, "said"]]

    return fill


def refuse(_: Write) -> object:
    raise AssertionError("made again")


def files(folder: Path, kind: str) -> list[str]:
    return sorted(path.name for path in folder.glob(f"*{kind}"))


def test_pixels_are_made_once_and_mapped_after(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path / "new" / "cache", GIB)
    first = cache.entry("key", SHAPE, filling())
    again = PixelCache(tmp_path / "new" / "cache", GIB).entry("key", SHAPE, refuse)
    for entry in (first, again):
        np.testing.assert_array_equal(entry.pixels, pixels())
        assert entry.note == [[0, "said"]]
        assert not entry.pixels.flags.writeable
    assert files(cache.folder, ".draft") == []
    other = cache.entry("other", SHAPE, filling(1))
    np.testing.assert_array_equal(other.pixels, pixels(1))


def test_fewer_pixels_than_announced_are_as_many_as_written(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path, GIB)

    def fill(write: Write) -> object:
        write(pixels()[:7])
        return None

    for _ in range(2):
        np.testing.assert_array_equal(cache.entry("key", SHAPE, fill).pixels, pixels()[:7])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_to_the_middle(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:SIZE])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def first_byte(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def zeroed(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes(SIZE) + data[SIZE:])


def other_note(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"said", b"lied"))


def of_another_key(path: Path) -> None:
    cache = PixelCache(path.parent / "elsewhere", GIB)
    cache.entry("other", SHAPE, filling(1))
    path.write_bytes((cache.folder / "other.pixels").read_bytes())


@pytest.mark.parametrize(
    "damage", [cut, cut_to_the_middle, empty, first_byte, zeroed, other_note, of_another_key]
)
def test_a_damaged_file_is_made_again(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    cache = PixelCache(tmp_path, GIB)
    cache.entry("key", SHAPE, filling())
    damage(tmp_path / "key.pixels")
    made: list[int] = []
    np.testing.assert_array_equal(cache.entry("key", SHAPE, filling(0, made)).pixels, pixels())
    assert made == [0]
    assert "is damaged" in caplog.text
    cache.entry("key", SHAPE, refuse)


def test_what_is_damaged_while_in_use_does_not_wait_for_its_users(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path, GIB)
    used = cache.entry("key", SHAPE, filling())
    (tmp_path / "key.pixels").rename(tmp_path / "aside")
    (tmp_path / "key.pixels").write_bytes(b"damaged")
    np.testing.assert_array_equal(cache.entry("key", SHAPE, filling()).pixels, used.pixels)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path, GIB)

    def fail(write: Write) -> object:
        write(pixels()[:2])
        raise ValueError("the fifth crop is broken")

    with pytest.raises(ValueError, match="the fifth crop is broken"):
        cache.entry("key", SHAPE, fail)
    assert files(tmp_path, ".pixels") == files(tmp_path, ".draft") == []
    cache.entry("key", SHAPE, filling())


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path, 4 * SIZE)  # with what is told of them, three
    for i, key in enumerate("abc"):
        cache.entry(key, SHAPE, filling(i))
        os.utime(tmp_path / f"{key}.pixels", (i, i))
    cache.entry("a", SHAPE, refuse)
    cache.entry("d", SHAPE, filling(3))
    assert files(tmp_path, ".pixels") == ["a.pixels", "c.pixels", "d.pixels"]


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path, 3 * SIZE)
    used = cache.entry("a", SHAPE, filling(0))
    part = used.pixels[2:4]
    del used
    os.utime(tmp_path / "a.pixels", (1, 1))
    cache.entry("b", SHAPE, filling(1))
    kept = cache.entry("c", SHAPE, filling(2))
    assert files(tmp_path, ".pixels") == ["a.pixels", "c.pixels"]
    with pytest.raises(ValueError, match=r"do not fit into the cache .* in use: raise loading\.c"):
        cache.entry("d", SHAPE, filling(3))
    np.testing.assert_array_equal(part, pixels()[2:4])
    np.testing.assert_array_equal(kept.pixels, pixels(2))
    # Nobody reads them any more: there is room.
    del part, kept
    cache.entry("d", SHAPE, filling(3))


def test_what_is_larger_than_the_cache_removes_nothing(tmp_path: Path) -> None:
    PixelCache(tmp_path, GIB).entry("a", SHAPE, filling())
    with pytest.raises(ValueError, match=r"do not fit into the cache .*loading\.cache=none"):
        PixelCache(tmp_path, SIZE - 1).entry("b", SHAPE, filling())
    assert files(tmp_path, ".pixels") == ["a.pixels"]


def _make_slowly(folder: Path, log: Path, begun: "multiprocessing.synchronize.Event") -> None:
    def fill(write: Write) -> object:
        with log.open("a") as lines:
            lines.write("made\n")
        begun.set()
        time.sleep(0.3)
        write(pixels())
        return None

    entry = PixelCache(folder, GIB).entry("key", SHAPE, fill)
    np.testing.assert_array_equal(entry.pixels, pixels())


def test_of_several_processes_one_makes_the_pixels(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    arguments = (tmp_path / "cache", tmp_path / "log", begun)
    processes = [context.Process(target=_make_slowly, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "made\n"


def _make_for_ever(folder: Path, begun: "multiprocessing.synchronize.Event") -> None:
    def fill(write: Write) -> object:
        write(pixels()[:5])
        begun.set()
        signal.pause()
        return None

    PixelCache(folder, GIB).entry("key", SHAPE, fill)


def test_who_is_killed_in_the_middle_holds_nobody_up(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    process = context.Process(target=_make_for_ever, args=(tmp_path, begun), daemon=True)
    process.start()
    assert begun.wait(60)
    assert len(files(tmp_path, ".draft")) == 1
    # What a living process is writing counts, and stays.
    with pytest.raises(ValueError, match="do not fit into the cache"):
        PixelCache(tmp_path, 2 * SIZE - 1).entry("other", SHAPE, filling())
    assert len(files(tmp_path, ".draft")) == 1
    process.kill()
    process.join(60)
    np.testing.assert_array_equal(
        PixelCache(tmp_path, GIB).entry("key", SHAPE, filling()).pixels, pixels()
    )
    assert files(tmp_path, ".draft") == []


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching, "_write", full)
    with pytest.raises(OSError, match=r"cannot be used \(No space left .*loading\.cache, or RAY"):
        PixelCache(tmp_path, GIB).entry("key", SHAPE, filling())
    assert files(tmp_path, ".draft") == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"the cache .*file/cache cannot be used \(Not a directory\)"):
        PixelCache(tmp_path / "file" / "cache", GIB).entry("key", SHAPE, filling())


def _made_anew(seed: int) -> np.ndarray:
    return pixels(seed)


def test_pixels_are_pickled_as_what_makes_them_and_parts_as_they_are(tmp_path: Path) -> None:
    found = PixelCache(tmp_path, GIB).entry("key", SHAPE, filling()).pixels
    found.made_by = (_made_anew, (5,))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)), pixels(5))
    part = pickle.loads(pickle.dumps(found[2:4]))
    assert not isinstance(part, MappedPixels)
    np.testing.assert_array_equal(part, pixels()[2:4])


def test_the_environment_counts_before_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAYREID_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_place("") == (tmp_path / "rayreid", False)
    assert cache_place("/scratch") == (Path("/scratch"), True)
    assert cache_place("none") is None
    monkeypatch.setenv("RAYREID_CACHE", "/node")
    assert cache_place("/scratch") == cache_place("none") == (Path("/node"), True)
    monkeypatch.setenv("RAYREID_CACHE", "none")
    assert cache_place("/scratch") is None


def test_an_entry_in_use_is_locked_until_it_is_let_go(tmp_path: Path) -> None:
    entry = PixelCache(tmp_path, GIB).entry("key", SHAPE, filling())
    with (tmp_path / "key.pixels").open("rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        del entry
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
