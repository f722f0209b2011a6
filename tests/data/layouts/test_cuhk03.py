from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from rayreid.batch import Crops, Picture
from rayreid.data.decoding import decode, decode_bytes
from rayreid.data.layouts import parse_layout, read_layout
from rayreid.data.layouts.cuhk03 import read_cuhk03
from rayreid.data.layouts.cuhk03_archive import Slot
from tests.data.layouts.test_cuhk03_archive import BOXES, TEST_SETS, pixels, slots, write_archive

PEOPLE = [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (4, 1), (5, 1), (5, 2)]
NUMBER = {person: n for n, person in enumerate(PEOPLE, 1)}
TESTED = {(1, 2), (4, 1)}


def parts(boxes: str) -> dict[str, list[Slot]]:
    """Return who is where in the miniature's new protocol: as queries, one crop in each view."""
    train, query, gallery = [], [], []
    for slot in slots(BOXES[boxes]):
        if slot[:2] not in TESTED:
            train.append(slot)
        elif any(other[:3] == slot[:3] for other in query):
            gallery.append(slot)
        else:
            query.append(slot)
    return {"train": train, "query": query, "gallery": gallery}


def write_config(path: Path, boxes: str, **changes: object) -> None:
    """Write a configuration as the authors did: MATLAB 5, columns, indices from 1."""
    every = slots(BOXES[boxes])
    files = np.empty((len(every), 1), dtype=object)
    files[:, 0] = [f"{slot}.png" for slot in every]
    index = {
        f"{part}_idx": np.array([[1 + every.index(slot)] for slot in own], np.uint16)
        for part, own in parts(boxes).items()
    }
    labels = np.array([[NUMBER[slot[:2]]] for slot in every], np.uint16)
    cameras = np.array([[slot.view] for slot in every], np.uint8)
    content = {"filelist": files, "labels": labels, "camId": cameras, **index, **changes}
    scipy.io.savemat(path, content, do_compression=True)


def write_configs(root: Path) -> Path:
    for boxes in BOXES:
        write_config(root / f"cuhk03_new_protocol_config_{boxes}.mat", boxes)
    return root


def released(root: Path) -> Path:
    (root / "cuhk03_release").mkdir(parents=True)
    write_archive(root / "cuhk03_release" / "cuhk-03.mat")
    return write_configs(root)


def unpacked(root: Path) -> Path:
    for boxes, people in BOXES.items():
        folder = root / f"images_{boxes}"
        folder.mkdir(parents=True)
        for slot in slots(people):
            Image.fromarray(pixels(slot, boxes)).save(folder / f"{slot}.png")
        (folder / "Thumbs.db").write_bytes(b"")
    return write_configs(root)


def new_protocol(root: Path) -> Path:
    names = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
    for boxes in BOXES:
        for part, own in parts(boxes).items():
            folder = root / boxes / names[part]
            folder.mkdir(parents=True)
            for n, slot in enumerate(own):
                name = f"{NUMBER[slot[:2]]:04}_c{slot.view}_{n}"
                Image.fromarray(pixels(slot, boxes)).save(folder / f"{name}.png")
            (folder / f"{name}.png").rename(folder / f"{name}.PNG")
            (folder / "Thumbs.db").write_bytes(b"")
    return root


MADE = {"released": released, "unpacked": unpacked, "new protocol": new_protocol}


@pytest.fixture(params=MADE)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return MADE[request.param](tmp_path / "cuhk03")


def content(crops: Crops) -> list[tuple[int, int, bytes]]:
    """Return person, camera and pixels of all crops, sorted."""
    found = []
    for image, person, camera in zip(crops.images, crops.identities, crops.cameras, strict=True):
        if isinstance(image, Path):
            assert image.is_absolute()
            drawn = decode(image, 40, 20)
        else:
            drawn = decode_bytes(image.read(), image.name, 40, 20)
        found.append((int(person), int(camera), drawn.tobytes()))
    return sorted(found)


def expected(own: Sequence[Slot], boxes: str) -> list[tuple[int, int, bytes]]:
    resized = [
        Image.fromarray(pixels(slot, boxes)).resize((20, 40), Image.Resampling.BILINEAR)
        for slot in own
    ]
    return sorted(
        (NUMBER[slot[:2]], slot.view, np.array(image).tobytes())
        for slot, image in zip(own, resized, strict=True)
    )


@pytest.mark.parametrize("options", ["", ":detected", ":labeled"])
def test_all_ways_to_keep_it_are_one_set(root: Path, options: str) -> None:
    boxes = "labeled" if options == ":labeled" else "detected"
    domain = read_layout(f"cuhk03{options}", root, "cuhk03")
    for part, own in parts(boxes).items():
        crops: Crops = getattr(domain, part)
        assert content(crops) == expected(own, boxes)
        assert crops.domain == domain.name == "cuhk03"
        assert len(crops) == len(crops.images) == len(own)


def test_crops_of_the_archive_are_pictures(tmp_path: Path) -> None:
    root = released(tmp_path / "cuhk03")
    domain = read_cuhk03(root, "x")
    assert all(isinstance(image, Picture) for image in domain.gallery.images)
    # The archive is the source, and used where it was unpacked too.
    unpacked(root)
    assert read_cuhk03(root, "x").query.images == domain.query.images


def test_crops_have_one_name_and_length_wherever_the_archive_lies(tmp_path: Path) -> None:
    def told(root: Path, options: str = "") -> list[tuple[str, int]]:
        images = read_layout(f"cuhk03{options}", root, "x").gallery.images
        return [(image.name, len(image.read())) for image in images]

    root = released(tmp_path / "cuhk03")
    before = told(root)
    assert not set(before) & set(told(root, ":labeled"))
    root = root.rename(tmp_path / "elsewhere")
    (root / "cuhk03_release" / "cuhk-03.mat").rename(root / "cuhk-03.mat")
    assert told(root) == before


@pytest.mark.parametrize("boxes", BOXES)
@pytest.mark.parametrize("split", [1, 2, 20])
def test_classic_splits(tmp_path: Path, boxes: str, split: int) -> None:
    root = released(tmp_path / "cuhk03")
    domain = read_layout(f"cuhk03:classic,{boxes},{split}", root, "x")
    tested = [slot for slot in slots(BOXES[boxes]) if slot[:2] in TEST_SETS[split - 1]]
    taught = [slot for slot in slots(BOXES[boxes]) if slot[:2] not in TEST_SETS[split - 1]]
    assert content(domain.query) == content(domain.gallery) == expected(tested, boxes)
    assert content(domain.train) == expected(taught, boxes)
    if split == 1:
        first = read_layout(f"cuhk03:classic,{boxes}", root, "x")
        assert first.query.images == domain.query.images


@pytest.mark.parametrize("make", [unpacked, new_protocol])
def test_classic_needs_the_archive(tmp_path: Path, make: object) -> None:
    root = make(tmp_path / "cuhk03")
    with pytest.raises(FileNotFoundError, match=r"no file cuhk-03\.mat"):
        read_layout("cuhk03:classic", root, "x")


def test_a_test_set_of_others_is_named(tmp_path: Path) -> None:
    root = released(tmp_path / "cuhk03")
    with h5py.File(root / "cuhk03_release" / "cuhk-03.mat", "a") as file:
        file["testsets"][0, 4] = file.create_dataset("x", data=np.array([[1.0], [99.0]])).ref
    with pytest.raises(ValueError, match=r"no detected crop of \(1, 99\)"):
        read_layout("cuhk03:classic,5", root, "x")


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("cuhk03:detected,labeled", "either detected or labeled"),
        ("cuhk03:3", "add the option classic"),
        ("cuhk03:labeled,20", "add the option classic"),
        ("cuhk03:classic,1,2", "choose one"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    tmp_path: Path, layout: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        read_layout(layout, released(tmp_path / "cuhk03"), "x")


def test_there_are_twenty_splits() -> None:
    assert parse_layout("cuhk03:classic,20")[1] == {"classic", "20"}
    with pytest.raises(ValueError, match="option of the layout cuhk03"):
        parse_layout("cuhk03:classic,21")


def test_all_is_everybody(root: Path) -> None:
    domain = read_layout("cuhk03:all", root, "x")
    assert content(domain.train) == expected(slots(BOXES["detected"]), "detected")
    assert not len(domain.query)


def test_upper_case_suffixes_are_read(tmp_path: Path) -> None:
    root = unpacked(tmp_path / "cuhk03")
    crop = root / "images_detected" / "1_002_1_01.png"
    crop.rename(crop.with_suffix(".PNG"))
    assert crop.with_suffix(".PNG") in read_cuhk03(root, "x").query.images


def test_a_crop_that_was_not_unpacked_is_named(tmp_path: Path) -> None:
    root = unpacked(tmp_path / "cuhk03")
    (root / "images_detected" / "1_002_1_01.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of the detected crops.*1_002_1_01 for"):
        read_cuhk03(root, "x")


def test_a_configuration_is_needed(tmp_path: Path) -> None:
    root = unpacked(tmp_path / "cuhk03")
    (root / "cuhk03_new_protocol_config_labeled.mat").unlink()
    assert len(read_cuhk03(root, "x").query)
    with pytest.raises(FileNotFoundError, match=r"no file cuhk03_new_protocol_config_labeled\.mat"):
        read_layout("cuhk03:labeled", root, "x")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": np.ones((3, 1))}, "as many people as crops"),
        ({"filelist": np.array([["../secret.png"]], object)}, "as many people as crops"),
        ({"query_idx": np.array([[0]])}, "empty or not among its crops"),
        ({"query_idx": np.array([[1000]])}, "empty or not among its crops"),
        ({"train_idx": np.zeros((0, 0))}, "empty or not among its crops"),
        ({"labels": np.array([["a"]], object)}, "is not the new protocol"),
    ],
)
def test_a_configuration_of_something_else_is_named(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    root = unpacked(tmp_path / "cuhk03")
    path = root / "cuhk03_new_protocol_config_detected.mat"
    write_config(path, "detected", **changes)
    with pytest.raises(ValueError, match=said) as caught:
        read_cuhk03(root, "x")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"MATLAB", b"\x80\x04K\x01."])
def test_a_damaged_configuration_is_named(tmp_path: Path, data: bytes) -> None:
    root = unpacked(tmp_path / "cuhk03")
    path = root / "cuhk03_new_protocol_config_detected.mat"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path} "):
        read_cuhk03(root, "x")


def test_a_configuration_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    root = unpacked(tmp_path / "cuhk03")
    with (root / "cuhk03_new_protocol_config_detected.mat").open("ab") as file:
        file.truncate(1_000_001)
    with pytest.raises(ValueError, match="more than 1,000,000 bytes"):
        read_cuhk03(root, "x")


@pytest.mark.parametrize("kept", [100, 300, -10])
def test_a_cut_configuration_is_named(tmp_path: Path, kept: int) -> None:
    root = unpacked(tmp_path / "cuhk03")
    path = root / "cuhk03_new_protocol_config_detected.mat"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{path} is not the new protocol"):
        read_cuhk03(root, "x")


@pytest.mark.parametrize("name", ["1_001_3_01.png", "1_001_1_1.png", "0001_c1_1.png", "readme.txt"])
def test_unpacked_names_outside_the_grammar_are_named(tmp_path: Path, name: str) -> None:
    root = unpacked(tmp_path / "cuhk03")
    (root / "images_detected" / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"A_PPP_V_II\.png"):
        read_cuhk03(root, "x")


@pytest.mark.parametrize("name", ["0001_c3_1.png", "0001_c1s1_000001_00.jpg", "1_001_1_01.png"])
def test_names_outside_the_new_protocol_are_named(tmp_path: Path, name: str) -> None:
    root = new_protocol(tmp_path / "cuhk03")
    (root / "detected" / "query" / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"PPPP_cC_N\.png"):
        read_cuhk03(root, "x")


def test_folders_of_the_new_protocol_are_needed(tmp_path: Path) -> None:
    root = new_protocol(tmp_path / "cuhk03")
    gallery = root / "detected" / "bounding_box_test"
    for path in gallery.glob("*_*"):
        path.unlink()
    with pytest.raises(ValueError, match=f"{gallery} holds no crops"):
        read_cuhk03(root, "x")
    gallery.rename(root / "away")
    with pytest.raises(FileNotFoundError, match=f"no folder {gallery}"):
        read_cuhk03(root, "x")


def test_boxes_are_never_guessed(tmp_path: Path) -> None:
    root = new_protocol(tmp_path / "cuhk03")
    with pytest.raises(ValueError, match="do not tell what boxes they are of"):
        read_cuhk03(root / "labeled", "x")
    (root / "detected").rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=f"read it as cuhk03:labeled={root}"):
        read_cuhk03(root, "x")
    assert len(read_layout("cuhk03:labeled", root, "x").query)


def test_other_roots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_cuhk03(tmp_path / "nowhere", "x")
    (tmp_path / "cuhk-03.zip").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file"):
        read_cuhk03(tmp_path / "cuhk-03.zip", "x")
    (tmp_path / "campus").mkdir()
    with pytest.raises(FileNotFoundError, match=r"the folders detected and labeled.*cuhk-03\.mat"):
        read_cuhk03(tmp_path, "x")
    with pytest.raises(ValueError, match="consent"):
        read_cuhk03(new_protocol(tmp_path / "DukeMTMC"), "x")
