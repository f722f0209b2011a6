"""What each fault cost, printed as a table when the tests are over."""

from collections.abc import Callable

import pytest

ROWS: list[tuple[str, str, float]] = []

Record = Callable[[str, str, float], None]


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
