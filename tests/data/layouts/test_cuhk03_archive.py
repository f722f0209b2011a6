"""The archive of CUHK03, on a miniature as MATLAB 7.3 would write it."""

import multiprocessing
import pickle
import threading
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import pytest
from jaxtyping import UInt8
from PIL import Image

from rayreid.batch import Picture
from rayreid.data.decoding import decode_all
from rayreid.data.layouts import cuhk03_archive
from rayreid.data.layouts.cuhk03_archive import (
    ArchivedCrop,
    Slot,
    archived_crops,
    classic_test_people,
)

# Images of each person: those of view 1 are 1 to 5, those of view 2 are 6 to 10. The last person
# of pair 1 is in one view only, as some are in the real set.
LABELED = {
    (1, 1): (1, 2, 5, 6, 10),
    (1, 2): (1, 6, 7),
    (1, 3): (2, 3),
    (2, 1): (1, 6),
    (3, 1): (1, 6),
    (4, 1): (1, 2, 6),
    (5, 1): (1, 6),
    (5, 2): (4, 9),
}
DETECTED = {**LABELED, (1, 1): (1, 2, 6, 10), (5, 2): (4, 8, 9)}
BOXES = {"detected": DETECTED, "labeled": LABELED}
TEST_SETS = [[(1, 2), (5, 1)], [(1, 1), (2, 1)], *[[(1, 3), (4, 1)]] * 18]


def slots(people: Mapping[tuple[int, int], tuple[int, ...]]) -> list[Slot]:
    return [Slot(*who, 1 if n <= 5 else 2, n) for who, images in people.items() for n in images]


def pixels(slot: Slot, boxes: str) -> UInt8[np.ndarray, "height width 3"]:
    """Return a crop that tells its slot, its boxes, rows from columns and red from blue."""
    height, width = 20 + slot.image, 10 + slot.person
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    flat = np.full_like(rows, 40 * slot.pair + (20 if boxes == "labeled" else 0))
    return np.stack([rows, columns, flat], axis=2)


def write_archive(path: Path) -> Path:
    # A file of MATLAB begins with 512 bytes that are not HDF5.
    with h5py.File(path, "w", userblock_size=512) as file:
        count = iter(range(10**6))

        def stored(array: np.ndarray, **attributes: object) -> h5py.Reference:
            made = file.create_dataset(f"#refs#/{next(count):x}", data=array)
            made.attrs.update(attributes)
            return made.ref

        def cell(references: list[list[h5py.Reference]]) -> np.ndarray:
            """Return a MATLAB cell array given by rows, as HDF5 holds it."""
            return np.array(references, dtype=h5py.ref_dtype).T

        for boxes, people in BOXES.items():
            pairs = []
            for pair in range(1, 6):
                rows = []
                for person in range(1, 1 + max(p for own, p in people if own == pair)):
                    there = {s.image: s for s in slots(people) if s[:2] == (pair, person)}
                    rows.append(
                        [
                            stored(pixels(there[n], boxes).T, MATLAB_class=np.bytes_("uint8"))
                            if n in there
                            else stored(np.zeros(2, np.uint64), MATLAB_empty=np.uint8(1))
                            for n in range(1, 11)
                        ]
                    )
                pairs.append([stored(cell(rows), MATLAB_class=np.bytes_("cell"))])
            file[boxes] = cell(pairs)
        sets = [[stored(np.array(people, float).T)] for people in TEST_SETS]
        file["testsets"] = cell(sets)
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "cuhk-03.mat")


def decoded(crop: Picture) -> np.ndarray:
    with Image.open(BytesIO(crop.read())) as image:
        assert image.format == "PNG"
        return np.array(image)


@pytest.mark.parametrize("boxes", BOXES)
def test_crops_are_those_that_were_written(archive: Path, boxes: str) -> None:
    with h5py.File(archive) as file:
        assert file[boxes].shape == (1, 5)
        assert file["testsets"].shape == (1, 20)
    found = archived_crops(archive, boxes)
    assert list(found) == slots(BOXES[boxes])
    for slot, crop in found.items():
        assert isinstance(crop, Picture)
        np.testing.assert_array_equal(decoded(crop), pixels(slot, boxes))
    assert found[Slot(1, 1, 2, 10)].name == f"cuhk-03.mat/{boxes}/1_001_2_10.png"
    assert len({crop.name for crop in found.values()}) == len(found)


def test_cells_may_lie_the_other_way(archive: Path) -> None:
    with h5py.File(archive, "a") as file:
        for name in ("detected", "testsets"):
            turned = file[name][()].T
            del file[name]
            file[name] = turned
    assert list(archived_crops(archive, "detected")) == slots(DETECTED)
    assert classic_test_people(archive, 2) == set(TEST_SETS[1])


def test_classic_test_people(archive: Path) -> None:
    for split in (1, 2, 20):
        assert classic_test_people(archive, split) == set(TEST_SETS[split - 1])
    with pytest.raises(ValueError, match="test set 21 is asked for, and it has 20"):
        classic_test_people(archive, 21)


def test_nothing_is_read_before_it_is_asked_for(archive: Path) -> None:
    crop = archived_crops(archive, "detected")[Slot(1, 1, 1, 1)]
    archive.unlink()
    with pytest.raises(FileNotFoundError, match="no archive"):
        crop.read()


def test_threads_read_what_one_thread_reads(archive: Path) -> None:
    crops = list(archived_crops(archive, "detected").values()) * 5
    expected = [crop.read() for crop in crops]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ArchivedCrop.read, crops)) == expected
    np.testing.assert_array_equal(
        decode_all(crops, 32, 16, threads=8), decode_all(crops, 32, 16, threads=1)
    )


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_processes_read_what_one_process_reads(archive: Path, start: str) -> None:
    crops = list(archived_crops(archive, "detected").values())
    expected = [crop.read() for crop in crops]
    context = multiprocessing.get_context(start)
    with ProcessPoolExecutor(1, context) as pool:
        assert list(pool.map(ArchivedCrop.read, crops)) == expected


def test_a_process_forked_while_others_read_reads_on(archive: Path) -> None:
    crops = list(archived_crops(archive, "detected").values())
    expected = [crop.read() for crop in crops]
    stop = threading.Event()

    def keep_reading() -> None:
        while not stop.is_set():
            for crop in crops:
                crop.read()

    readers = [threading.Thread(target=keep_reading) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(10):
            context = multiprocessing.get_context("fork")
            receiver, sender = context.Pipe(duplex=False)
            child = context.Process(target=_send_all, args=(crops, sender))
            child.start()
            assert receiver.poll(60), "the forked process hangs"
            assert receiver.recv() == expected
            child.join(60)
            assert child.exitcode == 0
    finally:
        stop.set()
        for reader in readers:
            reader.join()


def _send_all(crops: list[ArchivedCrop], sender: object) -> None:
    # As a loader process does, on threads that are not the one that was forked.
    with ThreadPoolExecutor(2) as pool:
        sender.send(list(pool.map(ArchivedCrop.read, crops)))


def test_no_archive_is_open_at_a_fork(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread is in the midst of reading, and the fork comes after it."""
    crop = archived_crops(archive, "detected")[Slot(1, 1, 1, 1)]
    reading, done = threading.Event(), threading.Event()
    checked = cuhk03_archive._checked

    def slow(crop: object) -> object:
        reading.set()
        # Long enough for a fork that does not wait to come first.
        done.wait(0.3)
        return checked(crop)

    monkeypatch.setattr(cuhk03_archive, "_checked", slow)
    ended: list[bytes] = []
    thread = threading.Thread(target=lambda: ended.append(crop.read()))
    thread.start()
    assert reading.wait(60)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_open_files, args=(sender,))
    child.start()
    assert receiver.poll(60)
    assert receiver.recv() == 0
    child.join(60)
    thread.join(60)
    assert len(ended) == 1


def _send_open_files(sender: object) -> None:
    sender.send(h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE))


def test_crops_are_pickled_small(archive: Path) -> None:
    crop = archived_crops(archive, "labeled")[Slot(5, 2, 2, 9)]
    text = pickle.dumps(crop)
    assert len(text) < 1000
    assert pickle.loads(text).read() == crop.read()


def test_encoded_length_follows_from_the_size_alone(archive: Path) -> None:
    # What is packed the better the less is in it differs from one version of zlib to the next.
    found = archived_crops(archive, "labeled")
    one, other = found[Slot(4, 1, 1, 1)], found[Slot(5, 1, 1, 1)]
    assert decoded(one).shape == decoded(other).shape
    assert one.read() != other.read()
    assert len(one.read()) == len(other.read()) > 21 * 11 * 3


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cuhk-03.mat"
    with pytest.raises(FileNotFoundError, match="no archive"):
        archived_crops(path, "detected")
    path.write_bytes(b"MATLAB 5.0 MAT-file" * 100)
    with pytest.raises(ValueError, match=f"{path} cannot be read as CUHK03's archive"):
        archived_crops(path, "detected")


def test_a_cut_archive_is_named(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=f"{archive} cannot be read as CUHK03's archive"):
        archived_crops(archive, "detected")


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("1", np.zeros((3, 4, 5), np.float64), "float64 of shape"),
        ("1", np.zeros((4, 4, 5), np.uint8), r"uint8 of shape \(4, 4, 5\)"),
        ("1", np.zeros((3, 4, 5, 6), np.uint8), "in the place of a crop"),
    ],
)
def test_a_crop_that_is_none_is_named(
    archive: Path, name: str, array: np.ndarray, said: str
) -> None:
    crop = archived_crops(archive, "detected")[Slot(1, 1, 1, 2)]
    with h5py.File(archive, "a") as file:
        first = file[file[file["detected"][0, 0]][1, 0]].name
        assert first == f"/#refs#/{name}"
        pair = file[file["detected"][0, 0]]
        pair[1, 0] = file.create_dataset("other", data=array).ref
    with pytest.raises(ValueError, match=said):
        archived_crops(archive, "detected")
    with pytest.raises(ValueError, match=said):
        crop.read()


def test_a_crop_that_asks_for_gigabytes_is_refused(archive: Path) -> None:
    with h5py.File(archive, "a") as file:
        large = file.create_dataset("other", (3, 10_000, 10_000), np.uint8, chunks=(1, 100, 100))
        file[file["detected"][0, 0]][1, 0] = large.ref
    with pytest.raises(ValueError, match="at most 50,000,000 pixels"):
        archived_crops(archive, "detected")


def test_empty_cells_of_any_kind_are_passed_over(archive: Path) -> None:
    with h5py.File(archive, "a") as file:
        pair = file[file["detected"][0, 0]]
        pair[1, 0] = file.create_dataset("one", data=np.zeros((3, 0, 0), np.uint8)).ref
        pair[9, 0] = file.create_dataset("two", data=np.zeros((0, 0), np.uint64)).ref
    gone = {Slot(1, 1, 1, 2), Slot(1, 1, 2, 10)}
    assert set(archived_crops(archive, "detected")) == set(slots(DETECTED)) - gone


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"detected": np.zeros((1, 5)), "testsets": np.zeros((1, 20))},
        {"detected/group": np.zeros(1), "testsets/group": np.zeros(1)},
        {"detected": np.array([[h5py.Reference()]]), "testsets": np.array([[h5py.Reference()]])},
    ],
    ids=["empty", "numbers", "groups", "null references"],
)
def test_another_archive_is_named(tmp_path: Path, content: dict[str, np.ndarray]) -> None:
    path = tmp_path / "other.mat"
    with h5py.File(path, "w") as file:
        for name, array in content.items():
            kind = h5py.ref_dtype if array.dtype == object else None
            file.create_dataset(name, data=array, dtype=kind)
    for ask in (lambda: archived_crops(path, "detected"), lambda: classic_test_people(path, 1)):
        with pytest.raises(ValueError, match=f"{path} cannot be read as CUHK03's archive"):
            ask()


@pytest.mark.parametrize("shape", [(9, 2), (10,), (10, 200_000)])
def test_a_camera_pair_of_another_shape_is_named(archive: Path, shape: tuple[int, ...]) -> None:
    with h5py.File(archive, "a") as file:
        made = file.create_dataset("other", shape, h5py.ref_dtype, chunks=True)
        file["detected"][0, 2] = made.ref
    with pytest.raises(ValueError, match="camera pair 3 is of shape"):
        archived_crops(archive, "detected")


def test_a_test_set_of_another_shape_is_named(archive: Path) -> None:
    with h5py.File(archive, "a") as file:
        file["testsets"][0, 0] = file.create_dataset("other", data=np.zeros((3, 2))).ref
    with pytest.raises(ValueError, match="test set 1 is of shape"):
        classic_test_people(archive, 1)
