"""What breaks under load: nothing that was asked is lost without a word, and all is well again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rayreid.benchmark.faults import (
    GONE_S,
    Bench,
    Fault,
    attack,
    bench,
    folder_deleted,
    ingress_killed,
    proxy_killed,
    replica_killed,
)
from rayreid.benchmark.fuzz import fuzzed
from rayreid.benchmark.load import LOST, REFUSED
from rayreid.benchmark.soak import soaked
from rayreid.guard.connections import DoorSettings
from tests.nodes import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

SOAK_S, SOAK_RATE, GROWTH = 600.0, 30.0, 400
"""Seconds of the soak, its requests a second, and bytes a request that count as growth. A new
process's memory fills by steps of MiB over its first thousands of requests: that is no leak."""


@pytest.fixture(scope="module")
def on() -> Iterator[Bench]:
    with bench(free_ports(1)[0]) as on:
        yield on


def well_again(fault: Fault, seconds: float) -> None:
    counts = fault.load.counts()
    assert fault.lost() == 0, counts
    assert counts["200"] > len(fault.load.due) / 3
    assert fault.recovery() < seconds, counts
    assert fault.load.status[-5:].tolist() == [200] * 5


def test_one_of_two_replicas_killed() -> None:
    with bench(free_ports(1)[0], replicas=2) as on:
        well_again(replica_killed(on), 34)


def test_the_only_replica_killed(on: Bench) -> None:
    well_again(replica_killed(on), 34)


def test_the_ingress_killed(on: Bench) -> None:
    well_again(ingress_killed(on), 34)


def test_the_proxy_killed(on: Bench) -> None:
    """What it held dies with it; nobody else can answer that."""
    fault = proxy_killed(on)
    status = fault.load.status
    assert fault.lost() <= 3
    assert set(status.tolist()) <= {200, 503, LOST, REFUSED}
    assert status[-5:].tolist() == [200] * 5


@pytest.mark.parametrize("way", ["dripping_headers", "dripping_body", "half_sent"])
def test_clients_that_are_slow_or_break_off_hold_up_nobody(on: Bench, way: str) -> None:
    fault = attack(on, way, 200, 15.0)
    well_again(fault, 1)
    assert fault.measured["connected"] == 200
    assert fault.measured["bytes"] < 600e6


def test_clients_that_take_no_answer_hold_up_nobody(on: Bench) -> None:
    # Few enough that what they ask for is not the load itself.
    fault = attack(on, "slow_reader", 20, 30.0)
    well_again(fault, 1)
    assert fault.measured["connected"] == 20
    assert fault.measured["closed"] == 20
    assert fault.measured["bytes"] < 300e6


def test_ten_thousand_connections_are_bounded(on: Bench) -> None:
    fault = attack(on, "silent", 10_000, 20.0)
    well_again(fault, 1)
    most = DoorSettings().connections
    assert fault.measured["connected"] > 9_000
    assert fault.measured["files"] < most + 100
    assert fault.measured["closed"] > 9_000 - most
    assert fault.measured["bytes"] < 300e6


def test_a_folder_that_is_deleted_takes_nothing_with_it_until_its_replica_dies(on: Bench) -> None:
    fault = folder_deleted(on)
    assert fault.lost() == 0, fault.load.counts()
    before = fault.load.due < fault.broke + GONE_S / 3 - 0.5
    assert set(fault.load.status[before].tolist()) == {200}


@pytest.mark.timeout(900)
def test_memory_stays_what_it_is(on: Bench) -> None:
    result = soaked(on, SOAK_S, SOAK_RATE)
    counts = result.load.counts()
    assert set(counts) <= {"200", "503"}, counts
    assert counts["200"] > 0.9 * len(result.load.due)
    for name in result.memory:
        growth, half = (one / SOAK_RATE for one in result.slope(name))
        assert growth - half < GROWTH, name


def test_a_fuzz_finds_no_failure(on: Bench, tmp_path: Path) -> None:
    found = fuzzed(on, lambda _: None, 60.0, tmp_path)
    statuses = {*found.images, *found.schema}
    assert {"200", "400"} & set(found.images)
    assert sum(found.schema.values()) > 100
    assert not [s for s in statuses if s.startswith("5") and s != "503"], found
    assert not {"hung", "lost"} & statuses, found
