"""A Ray cluster of several nodes on loopback: real processes, with a token, ports of its own."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
START_SECONDS = 180
"""How long a node may take to start on a machine that does much else."""


@dataclass
class Node:
    """A node: `ray start --block`, and all that it started."""

    name: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it as a power cut would: no process says goodbye; one that is dead stays so."""
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family.append(psutil.Process(self.process.pid))
            family += family[0].children(recursive=True)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(30)

    def workers(self) -> list[psutil.Process]:
        """Return the Ray Train workers that run on it."""
        return self.processes("RayTrainWorker")

    def processes(self, named: str) -> list[psutil.Process]:
        """Return those of its processes whose title has a name in it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
            return [p for p in family if named in _line(p)]
        return []


@dataclass
class LoopbackCluster:
    """A head, and nodes that were added to it."""

    folder: Path
    """What all its processes have in their command lines, and its logs lie in."""
    environment: dict[str, str]
    """What a shell needs to be attached to it: address and token, and what was given."""
    hidden: Path | None
    address: str = ""
    dashboard: str = ""
    """URL of the job API."""
    nodes: list[Node] = field(default_factory=list)

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    def ask(self, path: str) -> str:
        """Return what the dashboard answers, with the token."""
        token = {"Authorization": f"Bearer {self.token_file.read_text()}"}
        request = urllib.request.Request(f"{self.dashboard}{path}", headers=token)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())

    def add(self, cpus: int, name: str = "") -> Node:
        """Start a node with so many cores; it joins in a few seconds (`wait_for`)."""
        node = self._started(name or f"node{len(self.nodes)}", cpus, [f"--address={self.address}"])
        self.nodes.append(node)
        return node

    def wait_for(self, cpus: int) -> None:
        """Wait until the cluster has so many cores, no more and no fewer."""
        deadline = time.monotonic() + START_SECONDS
        said = ""
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # it may answer a little later than it listens
                said = self.ask("/api/v0/nodes?detail=1")
                nodes = json.loads(said)["data"]["result"]["result"]
                alive = [node for node in nodes if node["state"] == "ALIVE"]
                if sum(node["resources_total"].get("CPU", 0) for node in alive) == cpus:
                    return
            time.sleep(0.3)
        raise AssertionError(f"no {cpus} cores: {said[-2000:]}")

    def start(self, cpus: int) -> None:
        """Start the head, with so many cores."""
        port, dashboard, client = free_ports(3)
        self.address = f"127.0.0.1:{port}"
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        head = self._started(
            "head",
            cpus,
            [
                "--head",
                f"--port={port}",
                "--dashboard-host=127.0.0.1",
                f"--dashboard-port={dashboard}",
                f"--ray-client-server-port={client}",
                "--include-dashboard=true",
                f"--temp-dir={self.folder}",
            ],
        )
        self.nodes.append(head)
        self.environment["RAY_ADDRESS"] = self.address

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()
        # Those whose parent is gone: they name this cluster's folder, which is nobody else's.
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                named = [_line(process), process.environ().get("RAY_AUTH_TOKEN_PATH", "")]
                if any(str(self.folder) in text for text in named):
                    process.kill()

    def _started(self, name: str, cpus: int, more: list[str]) -> Node:
        agents = free_ports(4)
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *more,
            f"--num-cpus={cpus}", "--num-gpus=0", "--object-store-memory=100000000",
            f"--dashboard-agent-listen-port={agents[0]}",
            f"--dashboard-agent-grpc-port={agents[1]}",
            f"--runtime-env-agent-port={agents[2]}",
            f"--metrics-export-port={agents[3]}",
            "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats",
        ]  # fmt: skip
        if self.hidden:
            # A disk of its own: what lies in this folder on other nodes is not there.
            mount = 'mount -t tmpfs none "$0" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", mount, str(self.hidden), *command]
        said = self.folder / f"{name}.said"
        with said.open("wb") as log:
            process = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdout=log,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        # One after the other: two that start together take the same name for their sockets.
        deadline = time.monotonic() + START_SECONDS
        while "Ray runtime started" not in said.read_text():
            assert process.poll() is None, said.read_text()[-3000:]
            assert time.monotonic() < deadline, said.read_text()[-3000:]
            time.sleep(0.2)
        return Node(name, process)


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return ""


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def loopback_cluster(
    *cpus: int,
    head: int = 0,
    environment: Mapping[str, str] | None = None,
    hidden: Path | None = None,
    token: bool = True,
    bare: bool = False,
) -> Iterator[LoopbackCluster]:
    """Yield a cluster of a head with ``head`` cores and a node for each of ``cpus``, all up.

    ``environment`` is what all nodes, and the shells that use them, have in theirs, such as an
    object store's credentials. ``hidden`` is a folder that no node shares with this process, as on
    machines of their own. ``bare`` nodes have nothing of this shell, and not this tree on
    PYTHONPATH: what runs there is what a job brought. Without ``token``, it asks nobody for one.
    """
    # Paths of sockets are short, so not below pytest's.
    folder = Path("/tmp") / f"rr-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    cluster = LoopbackCluster(folder, {}, hidden)
    with os.fdopen(os.open(cluster.token_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    cluster.environment |= (
        {"HOME": str(folder), "PATH": path, "OMP_NUM_THREADS": "1"}
        if bare
        else inherited | {"PYTHONPATH": str(ROOT)}
    )
    cluster.environment |= {
        "RAY_AUTH_MODE": "token" if token else "disabled",
        "RAY_AUTH_TOKEN_PATH": str(cluster.token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        **(environment or {}),
    }
    try:
        cluster.start(head)
        for each in cpus:
            cluster.add(each)
        cluster.wait_for(head + sum(cpus))
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
