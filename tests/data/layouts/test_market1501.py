from pathlib import Path

import numpy as np
import pytest

from rayreid.data.layouts.market1501 import read_market1501

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def make(root: Path, **folders: list[str]) -> Path:
    for folder, names in folders.items():
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / name).write_bytes(b"")
    return root


@pytest.fixture
def miniature(tmp_path: Path) -> Path:
    return make(
        tmp_path / "market",
        bounding_box_train=[
            "0002_c1s1_000451_03.jpg",
            "0007_c12s3_076803_01x.jpg",
            "-1_c3s1_000001_00.jpg",
            "0000_c3s1_000001_00.jpg",
        ],
        query=[
            "0001_c1s1_001051_00.jpg.jpg",
            "0000_c2s1_000001_00.jpg",
            "12345_c2s1_000001_00.png",
        ],
        bounding_box_test=[
            "0001_c2s1_001051_02.JPG",
            "12345_c10s1_000001_00.jpeg",
            "0000_c6s4_014360_06.jpg",
            "-1_c6s4_014360_05.jpg",
            "Thumbs.db",
            ".DS_Store",
            "._0001_c2s1_001051_02.jpg",
        ],
    )


def test_every_quirk_of_the_grammar(miniature: Path) -> None:
    domain = read_market1501(miniature, "market1501")
    assert domain.name == "market1501"
    assert {crops.domain for crops in (domain.train, domain.query, domain.gallery)} == {
        "market1501"
    }
    np.testing.assert_array_equal(domain.train.identities, [2, 7])
    np.testing.assert_array_equal(domain.train.cameras, [1, 12])
    np.testing.assert_array_equal(domain.query.identities, [1, 12345])
    np.testing.assert_array_equal(domain.query.cameras, [1, 2])
    np.testing.assert_array_equal(domain.gallery.identities, [0, 1, 12345])
    np.testing.assert_array_equal(domain.gallery.cameras, [6, 2, 10])
    assert [path.name for path in domain.gallery.images] == [
        "0000_c6s4_014360_06.jpg",
        "0001_c2s1_001051_02.JPG",
        "12345_c10s1_000001_00.jpeg",
    ]
    for crops in (domain.train, domain.query, domain.gallery):
        assert len(crops) == len(crops.images)
        assert crops.identities.dtype == crops.cameras.dtype == np.int64


def test_times_are_frames_after_the_sequences_before(tmp_path: Path) -> None:
    root = make(
        tmp_path / "market",
        bounding_box_train=["0002_c1s2_000500_00.jpg", "0002_c2s1_009000_00.jpg"],
        query=["0001_c1s1_000100_00.jpg", "0001_c1s3_000025_00.jpg", "0003_c1s5_000050_00.jpg"],
        bounding_box_test=[
            "-1_c1s2_099999_00.jpg",
            "0000_c1s2_000250_00.jpg",
            "0001_c1s1_000200_00.jpg",
            "0001_c2s2_000075_00.jpg",
        ],
    )
    domain = read_market1501(root, "x")
    # Camera 1: sequence 1 is 200 frames long, 2 is 500, 3 is 25. Camera 2: sequence 1 is 9000.
    for crops, frames in (
        (domain.query, [100, 200 + 500 + 25, 200 + 500 + 25 + 50]),
        (domain.gallery, [200 + 250, 200, 9000 + 75]),
        (domain.train, [200 + 500, 9000]),
    ):
        assert crops.times is not None
        np.testing.assert_allclose(crops.times, np.array(frames) / 25)


def test_numbers_that_are_no_frames_are_read(tmp_path: Path) -> None:
    names = [f"0001_c{10**18}s{'9' * 30}_{'8' * 30}_00.jpg", "0001_c2s0_0_00.jpg"]
    domain = read_market1501(make(tmp_path / "x", query=names, bounding_box_test=names), "x")
    assert domain.query.times is not None
    assert np.isfinite(domain.query.times).all()


def test_images_are_absolute_and_exist(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(miniature.parent)
    domain = read_market1501(Path("market"), "market1501")
    for crops in (domain.train, domain.query, domain.gallery):
        assert all(path.is_absolute() and path.is_file() for path in crops.images)


def test_a_target_needs_no_train_split(tmp_path: Path) -> None:
    name = "0001_c1s1_000001_00.jpg"
    domain = read_market1501(make(tmp_path / "x", query=[name], bounding_box_test=[name]), "x")
    assert len(domain.train) == len(domain.train.images) == 0
    assert domain.train.identities.shape == domain.train.cameras.shape == (0,)
    assert domain.query.times == domain.gallery.times == 1 / 25


def test_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        read_market1501(tmp_path / "nowhere", "x")
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_root_that_is_a_file_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "market.zip"
    archive.write_bytes(b"")
    with pytest.raises(ValueError, match="is a file") as caught:
        read_market1501(archive, "x")
    assert str(archive) in str(caught.value)


def test_root_without_any_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none of the folders") as caught:
        read_market1501(tmp_path, "x")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("missing", ["query", "bounding_box_test"])
def test_missing_folder_is_named(miniature: Path, missing: str) -> None:
    for path in (miniature / missing).iterdir():
        path.unlink()
    (miniature / missing).rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        read_market1501(miniature, "x")
    assert str(miniature / missing) in str(caught.value)


@pytest.mark.parametrize("folder", ["query", "bounding_box_test", "bounding_box_train"])
@pytest.mark.parametrize("left", [[], ["Thumbs.db", "-1_c1s1_000001_00.jpg"]])
def test_folder_without_crops_is_named(miniature: Path, folder: str, left: list[str]) -> None:
    for path in (miniature / folder).iterdir():
        path.unlink()
    for name in left:
        (miniature / folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match="no crops") as caught:
        read_market1501(miniature, "x")
    assert str(miniature / folder) in str(caught.value)


def test_file_in_place_of_a_folder_is_named(miniature: Path) -> None:
    for path in (miniature / "bounding_box_train").iterdir():
        path.unlink()
    (miniature / "bounding_box_train").rmdir()
    (miniature / "bounding_box_train").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file") as caught:
        read_market1501(miniature, "x")
    assert str(miniature / "bounding_box_train") in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "readme.txt",
        "0001.jpg",
        "0001_c1_f0001.jpg",
        "0001_c1s1_000001_00.gif",
        "0001_c1s1_000001_00.jpg.bak",
        "x0001_c1s1_000001_00.jpg",
        "-2_c1s1_000001_00.jpg",
        "0001_cs1_000001_00.jpg",
    ],
)
def test_name_outside_the_grammar_is_named(miniature: Path, name: str) -> None:
    (miniature / "query" / name).write_bytes(b"")
    with pytest.raises(ValueError, match="PPPP_cCsS_FFFFFF_NN") as caught:
        read_market1501(miniature, "x")
    assert str(miniature / "query" / name) in str(caught.value)


@pytest.mark.parametrize("name", ["DukeMTMC-reID", "dukemtmcreid", "my-Duke-MTMC"])
def test_dukemtmc_is_refused_with_the_reason(miniature: Path, name: str) -> None:
    root = miniature.rename(miniature.parent / name)
    with pytest.raises(ValueError, match=r"consent.*withdrawn") as caught:
        read_market1501(root, "x")
    assert str(root) in str(caught.value)


def test_dukemtmc_is_refused_behind_a_link(miniature: Path) -> None:
    root = miniature.rename(miniature.parent / "DukeMTMC-reID")
    link = miniature.parent / "innocent"
    link.symlink_to(root)
    with pytest.raises(ValueError, match="consent"):
        read_market1501(link, "x")


@pytest.mark.parametrize(
    ("name", "query", "gallery", "identities", "cameras"),
    [
        ("multiviewx_a", 65, 740, 12, 6),
        ("multiviewx_b", 58, 89, 25, 6),
        ("clonedperson_demo", 4, 85, 3, 2),
    ],
)
def test_counts_of_public_sets(
    name: str, query: int, gallery: int, identities: int, cameras: int
) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"no data set at {SHARED / name}")
    domain = read_market1501(SHARED / name, name)
    assert (len(domain.train), len(domain.query), len(domain.gallery)) == (0, query, gallery)
    people = np.union1d(domain.query.identities, domain.gallery.identities)
    places = np.union1d(domain.query.cameras, domain.gallery.cameras)
    assert (len(people), len(places)) == (identities, cameras)
