"""What each fault cost, printed as a table when the tests are over."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.driver import STARTED

ROWS: list[tuple[str, str, float]] = []

Record = Callable[[str, str, float], None]


@pytest.fixture(autouse=True)
def _no_driver_is_left() -> Iterator[None]:
    yield
    while STARTED:
        driver = STARTED.pop()
        driver.process.kill()
        driver.process.wait(60)
        driver.reader.join(60)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for what a run or a study takes, that a test can fill."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root may mount a disk to fill")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def record() -> Record:
    """Keep a row: the fault, what was lost, and the seconds to the next epoch that was told."""
    return lambda fault, lost, seconds: ROWS.append((fault, lost, seconds))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not ROWS:
        return
    terminalreporter.write_line("\n| fault | lost | seconds to go on |\n| --- | --- | ---: |")
    for fault, lost, seconds in ROWS:
        terminalreporter.write_line(f"| {fault} | {lost} | {seconds:.0f} |")
