"""Whether the trials of a node hold decoded crops once, or once each."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rayreid.batch import Crops, Domain
from rayreid.search_space import parse_space
from rayreid.session import session
from rayreid.tune.settings import StudySettings
from rayreid.tune.trivial import open_trivial, run_with_data

PROCESSES = (1, 2, 4)
MIB = 256
PATIENCE = 8.0
"""Seconds between reading, measuring and ending, in which the slowest process comes up."""


def sharing(folder: Path, tell: Callable[[str], None], mib: int = MIB) -> list[dict[str, float]]:
    """Return the memory of 1, 2 and 4 trials that have read so many MiB of crops, a row each."""
    height, width = 256, 128
    count = mib * 2**20 // (height * width * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
    people = np.arange(count) % 50
    crops = Crops("pixels", pixels, people, people % 2)
    none = Crops("pixels", pixels[:0], people[:0], people[:0])
    domains = {"pixels": Domain("pixels", crops, none, none)}
    space = parse_space({"optimiser.lr": {"float": {"low": 0.0, "high": 1.0}}})
    rows = []
    with session(cpus=max(PROCESSES)):
        for processes in PROCESSES:
            settings = StudySettings(trials=processes, parallel=processes, stopping="none")
            search = open_trivial(
                folder / str(processes), space, settings, 1, {"optimiser.lr": 0.5}
            )
            run_with_data(search, read_all, domains)
            found = [search.record.last(trial + 1) or {} for trial in range(processes)]
            rows.append(
                {
                    "processes": processes,
                    "mib": pixels.nbytes / 2**20,
                    "proportional_mib": sum(row["proportional"] for row in found) / 2**20,
                    "private_mib": max(row["private"] for row in found) / 2**20,
                }
            )
            tell(f"{processes} trials with {mib} MiB: {rows[-1]}")
    return rows


def read_all(domains: Mapping[str, Domain]) -> dict[str, float]:
    """Read all crops as a trial would; return how many bytes this process has grown by.

    It waits for the other trials before it measures, and before it ends.
    """
    before = memory_of_process()
    for domain in domains.values():
        images = domain.train.images
        assert isinstance(images, np.ndarray)
        # A byte a page is enough to have it mapped, but all of them are a trial's work.
        assert int(images.sum(dtype=np.int64)) > 0
    time.sleep(PATIENCE)
    after = memory_of_process()
    time.sleep(PATIENCE)
    return {name: float(after[name] - before[name]) for name in after}


def memory_of_process() -> dict[str, int]:
    """Return the bytes of this process, shared pages by their part, and those of it alone."""
    sizes: dict[str, int] = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.split()
        sizes[name.rstrip(":")] = int(size) * 1024
    own: dict[str, Any] = {"private": sizes["Private_Clean"] + sizes["Private_Dirty"]}
    return {"proportional": sizes["Pss"], **own}
