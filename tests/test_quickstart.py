"""The quickstart as a user meets it: from the command line, to the end or to Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from rayreid.experiment import compose
from rayreid.quickstart import _experiments, quickstart
from rayreid.quickstart.sizes import ADAPTING, OWN, SMALL, SPACES, STUDIES, UNSEEN

COMMAND = [sys.executable, "-c", "from rayreid.__main__ import main; main()", "quickstart", "--to"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}


@pytest.mark.parametrize("method", SPACES)
def test_whatever_is_tuned_all_else_is_alike(method: str) -> None:
    best = compose(method, SMALL, OWN[method], {"optimiser.lr": 1.5e-3})
    experiments = _experiments(best)
    assert experiments.pop(f"{method}, tuned") == best
    methods = {"baseline", "gmn", "snr", "qaconv_ms", "daam"} - {method}
    assert {e.method for e in experiments.values()} >= methods
    for name, experiment in experiments.items():
        assert experiment.optimiser == best.optimiser, name
        assert experiment.sources == best.sources
        assert (experiment.epochs, experiment.sampling) == (best.epochs, best.sampling)
        assert bool(experiment.target) == (name in ADAPTING)


def test_a_method_without_a_space_is_not_tuned_here(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no method to tune here, 'snr'"):
        quickstart(tmp_path / "out", print, "snr")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quickstart_leaves_what_it_promises(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    answer = subprocess.run(
        [*COMMAND, str(folder)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    page = (folder / "README.md").read_text()
    assert page in answer.stdout
    assert "One seed; not a benchmark" in page
    first, adapting, *_ = page.split("Adapting is another task")
    assert all(f"| {name} " in first for name in ("gmn, tuned", "snr", "qaconv_ms"))
    assert "daam" not in first
    assert "| daam " in adapting
    # The table is of this run: its figures are the means of those that were told.
    told = re.findall(r"mAP on (\S+): (.*)", answer.stdout)
    figures = [dict(re.findall(r"([^,:]+?) (\d\.\d{3})", line)) for _, line in told]
    unseen = figures[-len(UNSEEN) :]
    for name in ("gmn, tuned", "baseline", "colour histogram"):
        key = "tuned" if name == "gmn, tuned" else name
        values = [float({k.strip(): v for k, v in row.items()}[key]) for row in unseen]
        rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
        # What adapts has a table of its own, of three columns.
        (shown,) = [
            float(row[4].split("+-")[0]) for row in rows if row[1:2] == [name] and len(row) == 7
        ]
        assert shown == pytest.approx(sum(values) / len(values), abs=2e-3)
    assert len(re.findall(r"trial \d+/\d+ starts", answer.stdout)) == STUDIES["gmn"]["trials"]
    assert "matched over HTTP" in answer.stdout
    assert yaml.safe_load((folder / "best.yaml").read_text())["method"] == "gmn"
    for picture in ("ranked_lists.png", "contact_sheet.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    again = subprocess.run(
        [*COMMAND, str(folder)], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert again.returncode == 2
    assert "is not empty" in again.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("line", ["Ray is up", "trial 2/", "gmn, tuned: epoch 1", "daam: epoch 1"])
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path, line: str) -> None:
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*COMMAND, str(tmp_path / "out")],
            env=ENVIRONMENT, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 300
    while line not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"no {line!r} in time"
        time.sleep(0.2)
    family = psutil.Process(process.pid).children(recursive=True)
    assert family, "Ray runs"
    # What a terminal does: the whole foreground group is interrupted.
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130, log.read_text()
    gone, alive = psutil.wait_procs(family, timeout=30)
    alive = [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    assert not alive, [" ".join(p.cmdline())[:100] for p in alive]
    assert gone
    assert "Traceback" not in log.read_text()
