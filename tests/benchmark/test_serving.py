"""The benchmark of the service: what it asks, what it compares with, what it writes."""

import json
import os
import subprocess
import sys
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rayreid.benchmark.fuzz import Fuzzed
from rayreid.benchmark.fuzz import page as fuzz_page
from rayreid.benchmark.fuzzing import bombs, mutated, seeds
from rayreid.benchmark.load import Load
from rayreid.benchmark.processes import family
from rayreid.benchmark.requests import IMAGES, form, jpeg, pairs_of, requests
from rayreid.benchmark.serving import direct, untrained
from rayreid.benchmark.serving_page import JPEGS, PIXELS, Round, Served, Way, draw, figures, page
from rayreid.benchmark.soak import Soak, slope
from rayreid.benchmark.soak import draw as draw_memory


def load(status: list[int], latency: float = 0.5) -> Load:
    count = len(status)
    codes = np.array(status)
    return Load(
        np.arange(count) / 10, np.full(count, latency), codes, (codes == 503).astype(np.int64),
        10.0, 0.1, 0.0,
    )  # fmt: skip


@pytest.fixture
def served() -> Served:
    return Served(
        "tiny", 64, 32, 16, [Way(PIXELS, 1, 16), Way(JPEGS, 2, 16)], {Way(PIXELS, 1, 16): 9.0},
        [
            Round({PIXELS: 20.0, JPEGS: 16.0}, load([200] * 5), load([200] * 1), load([200] * 30)),
            Round({PIXELS: 10.0, JPEGS: 8.0}, load([200] * 5), load([200] * 2), load([200] * 300)),
            Round({PIXELS: 10.0, JPEGS: 8.0}, load([200] * 5 + [503]), load([200, 0, 200]),
                  load([200] * 300)),
        ],
        {"half": load([200] * 3), "twice": load([200, 200, 503, 0])},
        {"half": 1.0, "twice": 4.0}, {"ProxyActor": 0.2},
    )  # fmt: skip


def test_requests_have_each_crop_once() -> None:
    crops = [jpeg(np.full((8, 4, 3), i, np.uint8)) for i in range(40)]
    assert len(set(crops)) == 40
    asked = requests(crops)
    assert len(asked) == 2
    for crop in crops[:32]:
        assert sum(request.count(crop) for request in asked) == 1
    pairs = pairs_of(IMAGES)
    assert len(pairs) == 64
    assert len({tuple(pair) for pair in pairs.tolist()}) == 64
    assert pairs_of(40)[-1].tolist() == [35, 39]
    assert len(pairs_of(40)) == 64 + 64 + 16
    body, kind = form([b"x"], {"pairs": b"[]"})
    assert kind == "multipart/form-data; boundary=--rayreid"
    assert body.endswith(b"----rayreid--\r\n")


def test_the_model_alone_is_measured_in_a_loop(tmp_path: Path) -> None:
    run = untrained("quickstart", tmp_path)
    crops = [jpeg(np.full((64, 32, 3), i, np.uint8)) for i in range(64)]
    ways = [Way(PIXELS, 1, 16), Way(JPEGS, 1, 16)]
    rates = direct(run, crops, ways, 0.1)
    assert list(rates) == ways
    assert all(rate > 1 for rate in rates.values())


def test_the_page_tells_shares_and_what_was_not_answered(served: Served, tmp_path: Path) -> None:
    told = page([served], 10.0, 3.0)
    # 5 requests of 16 images in 10 seconds, beside 10 and 8 images a second.
    assert "3.0 other processes" in told
    cells = [cell.strip() for cell in told.splitlines()[6].strip("|").split("|")]
    assert cells[:6] == ["tiny", "64x32", "10.0", "8.0", "8.0", "32"]
    assert cells[6:8] == ["80% (40% to 80%)", "100% (50% to 100%)"]
    # A request of 64 images in 10 s in one turn, two in the others.
    assert cells[8:10] == ["128% (32% to 128%)", "160% (40% to 160%)"]
    assert cells[10:14] == ["16", "0.5", "2", "30"]
    (row,) = [line for line in told.splitlines() if "| " in line and "twice" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:6] == ["4.0", "0.2", "1", "1"]
    assert "503s without Retry-After: 0." in told
    found = json.loads(json.dumps(figures(served)))
    assert found["direct_ways_tried"] == [
        {"input": PIXELS, "threads": 1, "batch": 16, "images_a_second": 9.0}
    ]
    assert found["share_of_direct_median_least_most"][PIXELS] == [0.8, 0.4, 0.8]
    assert found["loads"]["twice"]["refused_without_retry_after"] == 0
    draw([served, served], tmp_path / "load.svg")
    drawn = (tmp_path / "load.svg").read_text()
    for word in ("tiny, 64x32", "half", "twice"):
        assert f"<!-- {word} -->" in drawn


def test_damaged_images_follow_from_their_numbers() -> None:
    first = list(islice(mutated(), 50))
    assert first == list(islice(mutated(), 50))
    assert first[20:] == list(islice(mutated(20), 30))
    assert len(set(first)) > 45
    for seed in seeds():
        Image.open(BytesIO(seed)).load()


def test_growth_under_images_is_told_by_image() -> None:
    found = Fuzzed({"422": 6000}, {"200": 9}, {"Proxy (7)": (5.0, 2.0)}, {"Proxy (7)": 2**20})
    rows = [
        [c.strip() for c in line.split("|")[1:-1]] for line in fuzz_page(found, 120.0).split("\n")
    ]
    assert ["422", "6000", "0"] in rows
    assert ["all", "6000", "9"] in rows
    assert ["Proxy", "1", "+5", "2"] in rows


def test_bombs_are_small() -> None:
    for name, bomb in bombs().items():
        assert len(bomb) < 300_000 or "tiff" in name


def test_a_line_through_samples() -> None:
    seconds = np.arange(100.0)
    noise = np.random.default_rng(0).normal(0, 5, 100)
    growth, half = slope(seconds, 1000 + 3 * seconds + noise)
    assert abs(growth - 3) < half < 0.1
    # What fills at the start is no growth.
    memory = {"a": np.minimum(seconds, 20) + noise / 100}
    settled, half = Soak(load([200]), seconds, memory).slope("a")
    assert abs(settled) < 3 * half
    assert slope(seconds, np.full(100, 7.0)) == (0.0, 0.0)


def test_memory_over_time_is_drawn(tmp_path: Path) -> None:
    seconds = np.arange(10.0)
    draw_memory(
        Soak(load([200]), seconds, {"ServeReplica:rayreid:_galleries (7)": seconds}),
        tmp_path / "a.svg",
    )
    assert "<!-- galleries -->" in (tmp_path / "a.svg").read_text()


def test_a_process_and_all_that_it_started() -> None:
    code = (
        "import subprocess, time; subprocess.Popen(['sleep', '60']); print(1, flush=True); "
        "time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        found = {one.pid: one for one in family()}
        assert child.pid in found
        assert found[child.pid].resident > 2**20
        assert found[child.pid].files >= 3
        (grandchild,) = family(child.pid)
        assert grandchild.name == "sleep 60"
        assert grandchild.pid in found
    finally:
        for one in family(child.pid):
            os.kill(one.pid, 9)
        child.kill()
        child.wait()
        child.stdout.close()
    assert child.pid not in {one.pid for one in family()}
