"""The audit log as a file: size, writers, permissions."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from rayreid.guard.audit import Audit


def test_a_log_that_is_full_is_put_aside(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    audit = Audit(log, largest=1000, kept=3)
    for number in range(200):
        audit.write({"number": number}, {"sample": f"s{number}"})
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [
        "audit.jsonl", "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.3", "audit.jsonl.key",
    ]  # fmt: skip
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert all(file.stat().st_size <= 1000 for file in files)
    order = [*reversed(files[1:4]), log]
    numbers = [json.loads(x)["number"] for file in order for x in file.read_text().splitlines()]
    assert numbers == list(range(numbers[0], 200)), "the newest, in order, none lost between files"
    assert [entry["number"] for entry in audit.about("s199")] == [199]


def _write_many(log: Path, writer: int) -> None:
    audit = Audit(log, largest=5000, kept=50)
    for number in range(300):
        audit.write({"writer": writer, "number": number}, {})


def test_writers_at_once_lose_and_tear_nothing(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as processes:
        list(processes.map(_write_many, [log] * 3, range(3)))
    lines = [
        json.loads(line)
        for file in tmp_path.iterdir()
        if not file.name.endswith(".key")
        for line in file.read_text().splitlines()
    ]
    assert len(lines) == 900
    assert len({(line["writer"], line["number"]) for line in lines}) == 900


def test_a_log_that_others_may_read_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    Audit(log)
    log.chmod(0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        Audit(log)
    log.chmod(0o600)
    log.with_name("audit.jsonl.key").chmod(0o604)
    with pytest.raises(PermissionError, match="chmod 600"):
        Audit(log)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        Audit(tmp_path / "audit.jsonl")
    assert not (tmp_path / "elsewhere").exists()


def test_a_line_cannot_be_forged(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    audit.write({"client": 'x"}\n{"token": "forged"}\u2028'}, {})
    (line,) = audit.path.read_bytes().splitlines()
    assert "forged" in json.loads(line)["client"]
