"""Jobs on a real cluster: two nodes on loopback, with a token, over Ray's job API."""

import hashlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from rayreid.cli import cli
from tests.nodes import LoopbackCluster, loopback_cluster
from tests.store import Line

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HUSH = "hush-4f1c-do-not-show"

TREE = {
    ".gitignore": "left/\n",
    "left/out.txt": "ignored",
    "brought.txt": "brought",
    "rayreid/__init__.py": "",
    "rayreid/__main__.py": """
import hashlib, os, sys, time, ray
from pathlib import Path

ray.init(logging_level="ERROR", log_to_driver=False)

@ray.remote(num_cpus=1)
class There:
    def look(self):
        digest = hashlib.sha256(os.environ.get("KEY", "").encode()).hexdigest()
        return digest, ray.get_runtime_context().get_node_id(), Path("brought.txt").read_text()

all_there = [There.remote() for _ in range(int(ray.cluster_resources()["CPU"]))]
found = ray.get([there.look.remote() for there in all_there])
print("secret", {digest for digest, _, _ in found})
print("nodes", len({node for _, node, _ in found}), {text for _, _, text in found})
print("ignored", Path("left/out.txt").exists(), flush=True)
for step in range(1, 1000 if "--set=long=1" in sys.argv else 3):
    print(f"epoch {step}/{999 if '--set=long=1' in sys.argv else 2}", flush=True)
    time.sleep(0.3)
sys.exit(3 if "--set=fail=1" in sys.argv else 0)
""",
}
"""A tree that brings code of its own, as a clone of rayreid does: a program of a second."""

TRAIN = ["train", "gmn", "--source=synthetic=snow"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LoopbackCluster]:
    with loopback_cluster(2, head=2, bare=True) as running:
        yield running


@pytest.fixture
def laptop(cluster: LoopbackCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working tree with the cluster's name in a file, and a secret that only nodes read."""
    for name, text in TREE.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "secret").touch(mode=0o600)
    (tmp_path / "secret").write_text(f"{HUSH}\n")
    lab = {
        "address": cluster.dashboard, "token_file": str(cluster.token_file),
        "results": str(tmp_path / "shared"), "python": sys.executable,
        "env": [f"KEY=@{tmp_path}/secret"],
    }  # fmt: skip
    (tmp_path / "clusters.yaml").write_text(yaml.safe_dump({"clusters": {"lab": lab}}))
    monkeypatch.setenv("RAYREID_CLUSTERS", str(tmp_path / "clusters.yaml"))
    monkeypatch.chdir(tmp_path / "tree")
    return tmp_path


def rayreid(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def as_a_program(*arguments: str, **options: object) -> "subprocess.Popen[str]":
    # -P: the program is this tree's, not the one that it submits.
    command = [sys.executable, "-P", "-m", "rayreid", *arguments]
    return subprocess.Popen(command, text=True, preexec_fn=_hears_ctrl_c, **options)  # type: ignore[call-overload,no-any-return]


def _hears_ctrl_c() -> None:
    """Undo what a shell does to what it runs in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ask(cluster: LoopbackCluster, path: str) -> str:
    """Return what the dashboard answers, also where that is an error."""
    try:
        return cluster.ask(path)
    except urllib.error.HTTPError as error:
        return error.read().decode()


WHAT_RAY_SHOWS = [
    "/api/jobs/", "/api/jobs/{job}", "/api/jobs/{job}/logs", "/nodes?view=details",
    "/api/cluster_status", "/api/v0/logs?node_id={node}", "/logical/actors",
    *(f"/api/v0/{kind}?detail=1" for kind in (
        "jobs", "tasks", "actors", "workers", "runtime_envs", "nodes", "placement_groups",
    )),
]  # fmt: skip


def test_a_tree_runs_on_the_cluster_with_a_secret_that_ray_never_shows(
    cluster: LoopbackCluster, laptop: Path
) -> None:
    answer = rayreid("submit", "--", *TRAIN)
    assert answer.exit_code == 0, (answer.output, answer.exception)
    (job,) = re.findall(r"submitted (\S+) to lab", answer.stderr)
    digest = hashlib.sha256(HUSH.encode()).hexdigest()
    assert f"secret {{'{digest}'}}" in answer.stdout, "every worker has it"
    assert "nodes 2 {'brought'}" in answer.stdout
    assert "ignored False" in answer.stdout
    assert "epoch 2/2" in answer.stdout
    assert f"{job} succeeded; rayreid fetch {job} --cluster lab" in answer.stderr

    nodes = json.loads(cluster.ask("/api/v0/nodes?detail=1"))["data"]["result"]["result"]
    node = nodes[0]["node_id"]
    shown = {path: ask(cluster, path.format(job=job, node=node)) for path in WHAT_RAY_SHOWS}
    assert f"KEY=@{laptop}/secret" in shown["/api/jobs/"], "the reference is shown"
    token = cluster.token_file.read_text()
    for path, text in shown.items():
        assert HUSH not in text, path
        assert token not in text, path
    kept = [path for path in cluster.folder.rglob("*") if path.is_file()]
    assert any(path.name == f"job-driver-{job}.log" for path in kept)
    for path in kept:
        text = path.read_bytes()
        assert HUSH.encode() not in text, path
        assert token.encode() not in text or path == cluster.token_file, path

    assert f"{job} succeeded" in rayreid("jobs").stdout
    assert str(laptop / "shared" / job) in rayreid("jobs").stdout
    assert rayreid("logs", "train-gmn").stdout == answer.stdout, "by the beginning of its name"
    assert "answers, Ray 2." in rayreid("clusters").stdout
    assert "did you mean" in str(rayreid("logs", job.replace("train", "trian")).exception)
    fetched = rayreid("fetch", job).exception
    assert f"the results of {job} are in {laptop}/shared/{job} on the cluster" in str(fetched)

    wrong = laptop / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("0" * 64)
    settings = yaml.safe_load((laptop / "clusters.yaml").read_text())
    settings["clusters"]["lab"]["token_file"] = str(wrong)
    (laptop / "clusters.yaml").write_text(yaml.safe_dump(settings))
    refused = rayreid("submit", "--", *TRAIN).exception
    assert isinstance(refused, PermissionError)
    assert f"refuses the token of {wrong} (403); copy the one" in str(refused)


def until(what: str, read: Iterator[str]) -> str:
    seen = ""
    for line in read:
        seen += line
        if what in seen:
            return seen
    raise AssertionError(f"{what!r} is not in {seen}")


@pytest.mark.usefixtures("laptop")
def test_ctrl_c_ends_following_and_not_the_job_and_stop_ends_the_job() -> None:
    following = as_a_program(
        "submit", "--name=long", "--", *TRAIN, "--set=long=1",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    until("epoch 3/999", iter(following.stdout))
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=60)
    assert following.returncode == 130
    again = re.findall(r"long goes on: rayreid (logs .*) follows it again", said)
    assert again == ["logs long --follow --cluster lab"]

    # The same command as told, and the same log from its beginning.
    followed = as_a_program(*shlex.split(again[0]), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    seen = until("epoch 20/999", iter(followed.stdout))
    assert "epoch 1/999" in seen
    twice = rayreid("submit", "--name=long", "--", *TRAIN, "--set=long=1").exception
    assert "long is running on lab already; follow it with rayreid logs long" in str(twice)

    stopped = rayreid("stop", "long")
    assert "long stopped" in stopped.stderr
    _, said = followed.communicate(timeout=60)
    assert followed.returncode == 1
    assert "long stopped: " in said
    assert "long has stopped already" in rayreid("stop", "long").stderr
    attempt = rayreid("submit", "--name=long", "--detach", "--", *TRAIN)
    assert "submitted long-2 to lab; results go to" in attempt.stderr
    assert "follow it with rayreid logs long-2 --follow --cluster lab" in attempt.stderr
    assert rayreid("logs", "long-2", "--follow").exit_code == 0


@pytest.mark.usefixtures("laptop")
def test_a_job_that_fails_says_so_by_its_code() -> None:
    answer = rayreid("submit", "--name=failing", "--", *TRAIN, "--set=fail=1")
    assert answer.exit_code == 1
    assert "failing failed: exit code 3" in answer.stderr
    missing = rayreid("submit", "--name=missing", "--env=NOT_THERE", "--", *TRAIN)
    assert "Error: NOT_THERE is not set on" in missing.stdout
    assert "missing failed: exit code 2" in missing.stderr


def test_a_secret_that_one_node_lacks_is_told(cluster: LoopbackCluster, laptop: Path) -> None:
    cluster.hidden = laptop
    node = cluster.add(2)
    try:
        cluster.wait_for(6)
        answer = rayreid("submit", "--name=lacking", "--", *TRAIN)
        assert answer.exit_code == 1
        assert f"KEY is to be read from {laptop}/secret on" in answer.stdout
        assert "lacking failed: " in answer.stderr
    finally:
        node.kill()
        cluster.nodes.remove(node)
        cluster.hidden = None
        cluster.wait_for(4)


def test_following_outlives_a_line_that_is_cut(cluster: LoopbackCluster, laptop: Path) -> None:
    line = Line(cluster.dashboard.removeprefix("http://"))
    settings = yaml.safe_load((laptop / "clusters.yaml").read_text())
    settings["clusters"]["lab"]["address"] = f"http://127.0.0.1:{line.port}"
    (laptop / "clusters.yaml").write_text(yaml.safe_dump(settings))
    # On a terminal, to see the line of progress.
    ours, theirs = pty.openpty()
    following = as_a_program(
        "submit", "--name=cut", "--", *TRAIN, "--set=long=1", stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                shown.extend(data)
        except OSError:  # the terminal is gone
            return

    reader = threading.Thread(target=read)
    reader.start()
    until("epoch 5/999", iter(following.stdout))
    line.cut()
    while b"no answer for 0:00:0" not in shown:
        assert following.poll() is None
        time.sleep(0.1)
    time.sleep(5)
    line.mend()
    # What was printed meanwhile comes too, and nothing comes twice.
    lines = until("epoch 40/999", iter(following.stdout)).splitlines()
    steps = [int(step) for text in lines for step in re.findall(r"epoch (\d+)/999", text)]
    assert steps == list(range(6, steps[-1] + 1))
    assert re.search(rb"cut running 0:\d\d:\d\d, epoch \d+ of 999", shown)
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=60)
    line.cut()
    # Out of reach for longer than one waits, it says how to go on.
    from rayreid.cluster.following import follow
    from rayreid.cluster.job_client import JobClient
    from rayreid.cluster.named import choose, load_clusters

    line.mend()
    client = JobClient(*choose("lab", load_clusters()))
    line.cut()
    with pytest.raises(ConnectionError, match="follow it again with rayreid logs cut --follow"):
        follow(client, "cut", lambda _: None, lambda _: None, patience=3.0)
    line.mend()
    rayreid("stop", "cut")
    line.close()
    reader.join(timeout=10)


def test_an_open_cluster_is_refused_unless_told_so_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYREID_CLUSTERS", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, text in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    with loopback_cluster(head=2, bare=True, token=False) as running:
        there = ["--cluster", running.dashboard]
        refused = rayreid("submit", *there, "--", *TRAIN, f"--results={tmp_path}").exception
        assert isinstance(refused, PermissionError)
        assert "asks for no token, and so runs code for whoever reaches it" in str(refused)
        assert isinstance(rayreid("jobs", *there).exception, PermissionError)
        told = [*there, "--without-authentication"]
        answer = rayreid("submit", *told, "--", *TRAIN, f"--results={tmp_path}")
        assert answer.exit_code == 0, (answer.output, answer.exception)
        assert "epoch 2/2" in answer.stdout
