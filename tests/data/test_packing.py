"""Sets in shards, in a folder and behind S3: what went in comes out, or a sentence says why not."""

import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from rayreid.batch import Domain
from rayreid.cli import cli
from rayreid.data import packed
from rayreid.data.cache import MappedPixels
from rayreid.data.loading import LoadingSettings, decoded
from rayreid.data.packed import MANIFEST, SCHEMA, read_packed
from rayreid.data.packing import UNFINISHED, PackSettings, pack
from rayreid.data.sources import SyntheticSettings, canonical, open_source
from rayreid.data.storage import Storage, canonical_address
from rayreid.experiment import compose
from rayreid.gallery import Target
from rayreid.learn import learn
from rayreid.run import open_sources
from tests.data.market import make_market
from tests.store import ObjectStore

LOADING = LoadingSettings(height=64, width=32)
SYNTHETIC = SyntheticSettings(train_people=3, test_people=2, cameras=2, crops=2, seed=5)
# Four of the miniature's crops to a shard: four shards of training crops, one, and three.
SMALL = PackSettings(shard_mib=2400 / 2**20, loading=LOADING, synthetic=SYNTHETIC)
PARTS = ("train", "query", "gallery")


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return make_market(tmp_path / "Mini-Market")


@pytest.fixture(params=["folder", "s3"])
def to(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where sets are packed to."""
    if request.param == "folder":
        return str(tmp_path / "packed")
    store: ObjectStore = request.getfixturevalue("object_store")
    return canonical_address(store.address(f"packed/{tmp_path.name}"))


def opened(source: str, loading: LoadingSettings = LOADING) -> Domain:
    return open_source(source, loading, SYNTHETIC)


def packed_market(market: Path, to: str) -> Storage:
    address, _ = pack(f"market1501={market}", to, SMALL)
    return Storage(address)


def files_of(storage: Storage) -> dict[str, bytes]:
    """Return all that a manifest lists, and the manifest."""
    manifest = packed.read_manifest(storage)
    names = [MANIFEST, *(shard.file for shard in manifest.shards)]
    return {name: bytes(storage.read(name, 2**30)) for name in names}


def assert_same(one: Domain, other: Domain) -> None:
    for part in PARTS:
        left, right = getattr(one, part), getattr(other, part)
        np.testing.assert_array_equal(left.identities, right.identities)
        np.testing.assert_array_equal(left.cameras, right.cameras)
        assert (left.times is None) == (right.times is None)
        if left.times is not None:
            np.testing.assert_array_equal(left.times, right.times)


def test_a_packed_set_is_the_set(market: Path, to: str) -> None:
    source = f"market1501={market}"
    told: list[str] = []
    steps: list[int] = []
    address, manifest = pack(source, to, SMALL, progress=steps.append, tell=told.append)
    files, found = opened(source), opened(f"packed={address}")
    assert found.name == files.name == manifest.domain == "Mini-Market"
    assert found.fingerprint == files.fingerprint == manifest.fingerprint
    assert manifest.layout == "market1501"
    assert manifest.parts["gallery"].model_dump() == {"crops": 12, "people": 3, "cameras": 2}
    assert sum(steps) == 16 + 4 + 12
    assert len(told) == len(manifest.shards) == 8
    assert_same(found, files)
    for part in PARTS:
        paths, pictures = getattr(files, part).images, getattr(found, part).images
        for path, picture in zip(paths, pictures, strict=True):
            assert picture.read() == path.read_bytes()
            assert path.name in picture.name
    kept, expected = decoded(found, LOADING), decoded(files, LOADING)
    for part in PARTS:
        np.testing.assert_array_equal(getattr(kept, part).images, getattr(expected, part).images)


def test_the_shards_are_plain_parquet(market: Path, tmp_path: Path) -> None:
    storage = packed_market(market, str(tmp_path))
    assert storage.address == str(tmp_path / "Mini-Market")
    table = pq.read_table(storage.address + "/query-00000.parquet")
    assert table.schema.names == SCHEMA.names
    row = table.to_pylist()[1]
    path = market / "query" / "0005_c1s1_000005_01.jpg"
    assert row["image"] == path.read_bytes()
    told = [row[name] for name in ("name", "identity", "camera", "domain", "split", "time")]
    assert told == [path.name, 5, 1, "Mini-Market", "query", 5 / 25]


def test_labels_alone_decide_on_the_fingerprint_beside_the_images(
    market: Path, tmp_path: Path
) -> None:
    before = opened(f"market1501={market}").fingerprint
    moved = market.rename(tmp_path / "elsewhere")
    assert opened(f"market1501={moved}").fingerprint == before
    crop = moved / "query" / "0005_c1s1_000005_00.jpg"
    renamed = crop.rename(crop.with_name("0006_c1s1_000005_00.jpg"))
    assert opened(f"market1501={moved}").fingerprint != before
    renamed.rename(crop)
    assert opened(f"market1501={moved}").fingerprint == before
    Image.new("RGB", (30, 70), (1, 2, 3)).save(crop)
    assert opened(f"market1501={moved}").fingerprint != before


def test_a_drawn_domain_is_packed_pixel_by_pixel(tmp_path: Path) -> None:
    address, manifest = pack("synthetic=snow", str(tmp_path), SMALL)
    drawn, found = opened("synthetic=snow"), decoded(opened(f"packed={address}"), LOADING)
    assert (found.name, manifest.layout) == ("snow", "synthetic")
    assert_same(found, drawn)
    for part in PARTS:
        np.testing.assert_array_equal(getattr(found, part).images, getattr(drawn, part).images)


def test_a_packed_set_is_a_source_of_packing(market: Path, tmp_path: Path) -> None:
    first = packed_market(market, str(tmp_path / "one"))
    second = pack(f"packed={first.address}", str(tmp_path / "two"), SMALL)[1]
    assert second.fingerprint == packed.read_manifest(first).fingerprint
    assert second.layout == "packed"
    names = pq.read_table(f"{tmp_path}/two/Mini-Market/query-00000.parquet")["name"]
    assert names.to_pylist()[0] == "0005_c1s1_000005_00.jpg"


def test_everybody_in_a_packed_set_can_be_learnt_from(market: Path, tmp_path: Path) -> None:
    storage = packed_market(market, str(tmp_path))
    found = decoded(opened(f"packed:all={storage.address}"), LOADING)
    files = decoded(opened(f"market1501:all={market}"), LOADING)
    assert found.fingerprint == files.fingerprint
    assert_same(found, files)
    np.testing.assert_array_equal(found.train.images, files.train.images)
    with pytest.raises(ValueError, match="no option of the layout packed 'half'"):
        canonical(f"packed:half={storage.address}")


def test_the_same_again_writes_nothing(
    market: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = packed_market(market, to)
    before = files_of(storage)
    told: list[str] = []

    def refuse(*_: object) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(Storage, "write", refuse)
    pack(f"market1501={market}", to, SMALL, tell=told.append)
    assert len(told) == 8
    assert all(line.endswith(": there already") for line in told)
    assert files_of(storage) == before


def test_what_was_interrupted_goes_on(
    market: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = Storage.write, []

    def dying(self: Storage, file: str, data: bytes) -> None:
        if file == "gallery-00000.parquet" and "gallery-00000.parquet" not in written:
            written.append(file)
            raise KeyboardInterrupt
        write(self, file, data)
        if file.endswith(".parquet"):
            written.append(file)

    monkeypatch.setattr(Storage, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        pack(f"market1501={market}", to, SMALL)
    storage = Storage(canonical_address(to).replace("?", "/Mini-Market?", 1)
                      if "?" in to else f"{to}/Mini-Market")  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json, .* `rayreid data pack` again"):
        read_packed(storage.address, "it")
    before = written[:-1]
    written[:] = ["gallery-00000.parquet"]
    pack(f"market1501={market}", to, SMALL)
    assert not set(written) & set(before)
    assert len(before) + len(set(written)) == 8
    assert storage.sizes([UNFINISHED]) == {UNFINISHED: None}
    assert opened(f"packed={storage.address}").fingerprint == (
        opened(f"market1501={market}").fingerprint
    )


def test_what_is_lost_is_packed_again(market: Path, to: str) -> None:
    storage = packed_market(market, to)
    before = files_of(storage)
    storage.remove("train-00001.parquet")
    storage.write("gallery-00000.parquet", b"cut")
    told: list[str] = []
    pack(f"market1501={market}", to, SMALL, tell=told.append)
    assert sum("there already" in line for line in told) == 6
    assert files_of(storage) == before


@pytest.mark.parametrize("change", ["crop", "fewer", "shards"])
def test_another_set_is_not_written_over(market: Path, tmp_path: Path, change: str) -> None:
    storage = packed_market(market, str(tmp_path))
    before, settings = files_of(storage), SMALL
    if change == "crop":
        Image.new("RGB", (30, 70)).save(market / "bounding_box_test" / "0006_c2s1_000006_01.jpg")
    elif change == "fewer":
        for crop in (market / "bounding_box_train").glob("0004*"):
            crop.unlink()
    else:
        settings = SMALL.model_copy(update={"shard_mib": 1.0})
    with pytest.raises(ValueError, match="holds another packed set, or this one in shards of anot"):
        pack(f"market1501={market}", str(tmp_path), settings)
    assert files_of(storage) == before


def test_a_set_that_shrinks_by_a_shard_is_another(market: Path, tmp_path: Path) -> None:
    storage = packed_market(market, str(tmp_path))
    before = files_of(storage)
    last = pq.read_table(f"{storage.address}/gallery-00002.parquet")["name"].to_pylist()
    for name in last:
        (market / "bounding_box_test" / name).unlink()
    with pytest.raises(ValueError, match="holds another packed set"):
        pack(f"market1501={market}", str(tmp_path), SMALL)
    assert files_of(storage) == before


def test_a_source_that_changes_meanwhile_is_no_set(market: Path, tmp_path: Path) -> None:
    def change(_: int) -> None:
        Image.new("RGB", (30, 70)).save(market / "bounding_box_test" / "0006_c2s1_000006_01.jpg")

    with pytest.raises(ValueError, match="changed while it was packed: run the same command again"):
        pack(f"market1501={market}", str(tmp_path / "packed"), SMALL, progress=change)
    assert not (tmp_path / "packed" / "Mini-Market" / MANIFEST).exists()
    manifest = pack(f"market1501={market}", str(tmp_path / "packed"), SMALL)[1]
    assert manifest.fingerprint == opened(f"market1501={market}").fingerprint


def test_a_crop_that_cannot_be_read_is_named(market: Path, tmp_path: Path) -> None:
    crop = market / "query" / "0005_c1s1_000005_00.jpg"
    crop.unlink()
    crop.symlink_to("nowhere")
    with pytest.raises(ValueError, match=f"{crop} cannot be packed, as there is no such file"):
        pack(f"market1501={market}", str(tmp_path / "packed"), SMALL)


def edited(storage: Storage, **changes: object) -> None:
    tree = json.loads(bytes(storage.read(MANIFEST, 2**20)))
    storage.write(MANIFEST, json.dumps(tree | changes).encode())


def cut_short(storage: Storage) -> None:
    storage.write("query-00000.parquet", files_of(storage)["query-00000.parquet"][:-9])


def longer(storage: Storage) -> None:
    storage.write("query-00000.parquet", files_of(storage)["query-00000.parquet"] + b"123456789")


def no_parquet(storage: Storage) -> None:
    storage.write("query-00000.parquet", bytes(len(files_of(storage)["query-00000.parquet"])))


def absent(storage: Storage) -> None:
    storage.remove("query-00000.parquet")


def newer(storage: Storage) -> None:
    edited(storage, format=2, colour="blue")


def no_json(storage: Storage) -> None:
    storage.write(MANIFEST, b'{"format": 1, ')


def no_manifest(storage: Storage) -> None:
    storage.write(MANIFEST, b"[1, 2]")


def huge_manifest(storage: Storage) -> None:
    storage.write(MANIFEST, b" " * (packed.MAX_MANIFEST_BYTES + 1))


def elsewhere(storage: Storage) -> None:
    shards = json.loads(files_of(storage)[MANIFEST])["shards"]
    edited(storage, shards=[shards[0] | {"file": "../train-00000.parquet"}])


def other_labels(storage: Storage) -> None:
    edited(storage, fingerprint="0" * 16)


def other_rows(storage: Storage) -> None:
    shards = json.loads(files_of(storage)[MANIFEST])["shards"]
    edited(storage, shards=[shards[0] | {"rows": 99}, *shards[1:]])


ON_BOTH = (cut_short, absent, newer)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_short, r"/query-00000\.parquet is cut short: it has [\d,]+ bytes and the manifest li"),
        (longer, r"/query-00000\.parquet was replaced: it has"),
        (no_parquet, r"/query-00000\.parquet is no shard of a packed set \(Parquet magic bytes"),
        (absent, r"there is no .*/query-00000\.parquet: check the address"),
        (newer, r"/manifest\.json is of format 2, and this release reads up to 1: update rayreid"),
        (no_json, r"/manifest\.json is no manifest of a packed set"),
        (no_manifest, r"/manifest\.json is no manifest of a packed set"),
        (huge_manifest, r"/manifest\.json has [\d,]+ bytes, more than the"),
        (elsewhere, r"/manifest\.json is damaged \(.*file.*\): pack the set again"),
        (other_labels, r"the labels at .* are not those that its manifest lists"),
        (other_rows, r"/train-00000\.parquet is no shard of a packed set \(4 rows, not 99\)"),
    ],
)
def test_what_is_damaged_is_said_in_a_sentence(
    market: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    damage: Callable[[Storage], None],
    said: str,
) -> None:
    places = [str(tmp_path / "packed")]
    if damage in ON_BOTH:
        store: ObjectStore = request.getfixturevalue("object_store")
        places.append(store.address(f"packed/{tmp_path.name}"))
    for to in places:
        storage = packed_market(market, to)
        damage(storage)
        with pytest.raises((ValueError, OSError), match=said) as told:
            opened(f"packed={storage.address}")
        assert "\n" not in str(told.value)
        assert "endpoint_override" not in str(told.value)


def test_a_set_that_is_not_there_is_said(to: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no packed set at .*: check the address"):
        opened(f"packed={to}")


def test_a_shard_that_is_replaced_while_it_is_read_is_said(market: Path, to: str) -> None:
    storage = packed_market(market, to)
    found = opened(f"packed={storage.address}")
    shard = files_of(storage)["train-00001.parquet"]
    middle = shard.index(b"\xff\xd8") + 40  # inside the first image
    storage.write("train-00001.parquet", shard[:middle] + b"\x00" + shard[middle + 1 :])
    # Its labels are what they were: only the whole file's hash tells.
    opened(f"packed={storage.address}")
    for settings in (LOADING, LOADING.model_copy(update={"on_error": "skip"})):
        with pytest.raises(ValueError, match=r"/train-00001\.parquet is not what the manifest li"):
            decoded(found, settings)


def test_a_store_that_goes_away_is_no_broken_crop(market: Path, tmp_path: Path) -> None:
    storage = packed_market(market, str(tmp_path))
    found = opened(f"packed={storage.address}")
    storage.remove("query-00000.parquet")
    with pytest.raises(FileNotFoundError, match=r"there is no .*query-00000\.parquet"):
        decoded(found, LOADING.model_copy(update={"on_error": "skip"}))


def test_a_broken_image_in_a_shard_is_named_or_left_out(
    market: Path, to: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop = market / "bounding_box_train" / "0002_c1s1_000002_00.jpg"
    crop.write_bytes(crop.read_bytes()[:-80])
    found = opened(f"packed={packed_market(market, to).address}")
    with pytest.raises(ValueError, match=rf"^{crop.name} \(row 0 of .*/train-00001\.p.* damaged"):
        decoded(found, LOADING)
    monkeypatch.setattr("rayreid.data.keeping.MOST_BROKEN", 1 / 16)
    skip = LOADING.model_copy(update={"on_error": "skip"})
    with caplog.at_level(logging.WARNING):
        kept = decoded(found, skip)
    assert len(kept.train) == len(kept.train.images) == 15
    (record,) = caplog.records
    assert "1 of 16 train crops of Mini-Market" in record.getMessage()
    # What the cache holds without it is not what a run that may not skip asks for.
    with pytest.raises(ValueError, match=rf"^{crop.name} \(row 0 of .*/train-00001\.p.* damaged"):
        decoded(found, LOADING)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_packed_set_is_learnt_from_and_ranked(market: Path, to: str, workers: int) -> None:
    storage = packed_market(market, to)
    made = compose(
        "gmn",
        {
            "sources": [f"packed={storage.address}"],
            "trunk.name": "test_resnet",
            "trunk.weights": "none",
            "loading.height": 64,
            "loading.width": 32,
            "loading.workers": workers,
            "sampling.identities": 2,
            "sampling.crops": 2,
            "config.hidden": 8,
            "epochs": 1,
            "steps_per_epoch": 2,
        },
    )
    assert made.sources == (f"packed={storage.address}",)
    domains = open_sources(made)
    (epoch,) = learn(made, domains, targets=[Target(domains[0], made.loading)])
    files = made.replaced({"sources": [f"market1501={market}"]})
    (expected,) = learn(files, open_sources(files))
    assert epoch.losses == expected.losses
    assert epoch.rankings["Mini-Market"].queries == 4


def test_one_set_in_two_forms_is_not_two_sources(market: Path, tmp_path: Path) -> None:
    storage = packed_market(market, str(tmp_path / "packed"))
    copy = make_market(tmp_path / "Copy")
    made = compose(
        "gmn", {"sources": [f"packed={storage.address}", f"market1501={copy}"], "trunk.name":
                "test_resnet", "trunk.weights": "none"}
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"Copy and packed=.* hold the same crops: name each dom"):
        open_sources(made)


def test_decoded_crops_go_to_other_processes_as_their_cache(
    market: Path, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = packed_market(market, to)
    here = decoded(opened(f"packed={storage.address}"), LOADING)
    sent = pickle.dumps(here)
    assert len(sent) < here.train.images.nbytes / 4
    with monkeypatch.context() as another_node:
        another_node.setenv("RAYREID_CACHE", str(tmp_path / "node"))
        there = pickle.loads(sent)
        assert len(list((tmp_path / "node").glob("*.pixels"))) == 3
        another_node.setenv("RAYREID_CACHE", "none")
        in_memory = pickle.loads(sent)
    storage.remove(MANIFEST)
    for entry in packed.PARTS:
        storage.remove(f"{entry}-00000.parquet")
    again = pickle.loads(sent)  # nothing is fetched: it is in the cache here
    for other in (there, in_memory, again):
        assert_same(other, here)
        np.testing.assert_array_equal(other.train.images, here.train.images)
    for mapped in (here, there, again):
        assert isinstance(mapped.train.images, MappedPixels)
    assert not isinstance(in_memory.train.images, MappedPixels)


def test_without_a_cache_a_packed_set_must_fit_into_memory(market: Path, tmp_path: Path) -> None:
    found = opened(f"packed={packed_market(market, str(tmp_path)).address}")
    without = LOADING.model_copy(update={"cache": "none"})
    assert not isinstance(decoded(found, without).train.images, MappedPixels)
    with pytest.raises(ValueError, match=r"more than loading\.memory_gib, and crops of a packed s"):
        decoded(found, without.model_copy(update={"memory_gib": 0.0}))


def test_each_shard_is_fetched_once(
    market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(f"packed={packed_market(market, str(tmp_path)).address}")
    fetched: list[str] = []
    images = packed.Shard.images

    def counted(self: packed.Shard) -> object:
        fetched.append(self.entry.file)
        return images(self)

    monkeypatch.setattr(packed.Shard, "images", counted)
    decoded(found, LOADING)
    assert len(fetched) == len(set(fetched)) == 8
    decoded(found, LOADING)
    assert len(fetched) == 8


def test_the_command_tells_what_it_does(market: Path, to: str) -> None:
    arguments = ["data", "pack", f"market1501={market}", "synthetic=snow", "--to", to]
    drawn = [f"synthetic.{name}={value}" for name, value in SYNTHETIC.model_dump().items()]
    options = [word for one in (*drawn, "loading.height=32", "loading.width=16") for word in
               ("--set", one)]  # fmt: skip
    answer = CliRunner().invoke(cli, [*arguments, *options], catch_exceptions=False)
    assert answer.exit_code == 0
    lines = answer.output.splitlines()
    assert lines[0].startswith("train-00000.parquet: 16 crops, 0.0 MiB")
    place = canonical_address(to).partition("?")[0]
    assert f"packed={place}/Mini-Market" in lines[3]
    assert "16 train crops of 4 people, 4 query crops of 2 people, 12 gallery crops" in lines[3]
    assert f"packed={place}/snow" in lines[-1]
    again = CliRunner().invoke(cli, [*arguments, *options], catch_exceptions=False)
    assert again.output.count("there already") == 6


def test_a_fingerprint_tells_times_from_none(market: Path) -> None:
    from rayreid.data.content import fingerprint

    timed = opened(f"market1501={market}")
    untimed = replace(timed, train=replace(timed.train, times=None))
    assert fingerprint(timed) != fingerprint(untimed)
