"""`rayreid` in a process of its own, every line it says stamped."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.miniature import MINIATURE

EPOCHS = 12
LONG = {"epochs": EPOCHS, "steps_per_epoch": 20, "synthetic.train_people": 12}
"""Long enough to be broken into, with people for three workers."""


STARTED: list["Driver"] = []
"""Whatever a test started, to be ended with it."""


class Driver:
    """A command that runs, and what it has said so far."""

    def __init__(self, command: list[str], environment: Mapping[str, str], cwd: Path):
        code = "from rayreid.__main__ import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", code, *command],
            # Threads of several processes that wait for two cores take a hundred times as long.
            env={**environment, "OMP_NUM_THREADS": "1"}, cwd=cwd,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.lines: list[tuple[float, str]] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        STARTED.append(self)

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as said:
            for line in said:
                self.lines.append((time.monotonic(), line.rstrip()))

    @property
    def said(self) -> str:
        return "\n".join(line for _, line in list(self.lines))

    @property
    def epoch(self) -> int:
        """Return the last epoch that was told."""
        told = re.findall(r"^epoch (\d+)/", self.said, re.MULTILINE)
        return max(map(int, told), default=0)

    def wait_for_epoch(self, epoch: int, seconds: float = 240) -> float:
        """Return when an epoch was told."""
        deadline = time.monotonic() + seconds
        while self.epoch < epoch:
            assert self.process.poll() is None, f"ended too early:\n{self.said}"
            assert time.monotonic() < deadline, f"no epoch {epoch} in time:\n{self.said}"
            time.sleep(0.05)
        return next(at for at, line in self.lines if line.startswith(f"epoch {epoch}/"))

    def wait(self, seconds: float = 400) -> int:
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not over in {seconds} s:\n{self.said}") from None
        self.reader.join(10)
        return code


def train(results: object, *more: str, **settings: object) -> list[str]:
    """Return the arguments of a training of a few seconds an epoch."""
    made = MINIATURE | LONG | {k.replace("__", "."): v for k, v in settings.items()}
    sources = [f"--source={source}" for source in MINIATURE["sources"]]
    values = [f"--set={k}={json.dumps(v)}" for k, v in made.items() if k != "sources"]
    return ["train", "baseline", *sources, *values, f"--results={results}", "--name=run", *more]


def check_log(text: str, epochs: int = EPOCHS) -> list[dict[str, float]]:
    """Return the rows of a metrics.jsonl: every epoch there, and one learnt twice told alike."""
    rows = [json.loads(line) for line in text.splitlines()]
    assert sorted({row["epoch"] for row in rows}) == list(range(1, epochs + 1))
    for row in rows:
        for other in rows:
            if (other["epoch"], other["workers"]) == (row["epoch"], row["workers"]):
                for name in row:
                    if name.startswith("loss/"):
                        assert abs(row[name] - other[name]) < 1e-3 * max(1, abs(row[name]))
    return rows


def fill(filler: Path, until: Driver) -> None:
    """Fill a disk, also with what is dropped meanwhile, until a command is over."""
    with filler.open("wb", buffering=0) as file:
        while until.process.poll() is None:
            with suppress(OSError):
                while file.write(bytes(2**14)):
                    pass
            time.sleep(0.01)
