"""A Ray cluster of several nodes on this machine, made by `ray start` as clusters are."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

START_SECONDS = 120


@dataclass(frozen=True)
class Loopback:
    """A running cluster: how it is reached, and what its nodes' environment is."""

    folder: Path
    address: str
    gcs: str
    token_file: Path
    environment: Mapping[str, str]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def loopback(
    nodes: int = 2, cpus: int = 2, *, token: bool = True, also: Mapping[str, str] | None = None
) -> Iterator[Loopback]:
    """Run a head and ``nodes - 1`` workers, with a token unless told otherwise.

    The nodes see ``also`` beside a bare environment: nothing of the developer's shell, and not
    this tree on PYTHONPATH, so that what runs there is what a job brought.
    """
    # Ray's sockets lie below; their paths may have no more than 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="rr-", dir="/tmp"))
    token_file = folder / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(secrets.token_hex(32))
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "OMP_NUM_THREADS": "1",
        **({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file)} if token else {}),
        **({} if token else {"RAY_AUTH_MODE": "disabled"}),
        **(also or {}),
    }
    port, dashboard = free_port(), free_port()
    host = _own_address()
    begun: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(nodes):
            begun.append(_start(folder, environment, number, cpus, port, dashboard, host))
            if number == 0:
                _wait_for(f"http://127.0.0.1:{dashboard}/api/gcs_healthz", begun[0], folder)
        cluster = Loopback(
            folder, f"http://127.0.0.1:{dashboard}", f"{host}:{port}", token_file, environment
        )
        _wait_for_nodes(cluster, nodes)
        yield cluster
    finally:
        _end(folder, begun)
        shutil.rmtree(folder, ignore_errors=True)


def _start(
    folder: Path, environment: Mapping[str, str], number: int, cpus: int, port: int, dashboard: int,
    host: str,
) -> subprocess.Popen[bytes]:  # fmt: skip
    part = [
        "--head", f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--temp-dir={folder}/ray", f"--ray-client-server-port={free_port()}",
    ] if number == 0 else [f"--address={host}:{port}"]  # fmt: skip
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", *part, "--block",
        f"--num-cpus={cpus}", "--object-store-memory=100000000", "--num-gpus=0",
        # Two nodes of one machine must not take each other's ports; 0 is any that is free.
        "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0",
        f"--metrics-export-port={free_port()}", f"--runtime-env-agent-port={free_port()}",
        f"--dashboard-agent-grpc-port={free_port()}",
        "--disable-usage-stats",
    ]  # fmt: skip
    with (folder / f"node{number}.log").open("wb") as log:
        return subprocess.Popen(
            command, env=dict(environment), cwd=folder, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


def _own_address() -> str:
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())


def _wait_for(url: str, node: subprocess.Popen[bytes], folder: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and node.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"no head: {(folder / 'node0.log').read_text()[-3000:]}")


def _wait_for_nodes(cluster: Loopback, nodes: int) -> None:
    import json

    until = time.monotonic() + START_SECONDS
    request = urllib.request.Request(
        f"{cluster.address}/nodes?view=summary",
        headers={"Authorization": f"Bearer {cluster.token_file.read_text()}"},
    )
    alive: list[object] = []
    while time.monotonic() < until:
        with urllib.request.urlopen(request, timeout=30) as answer:
            summary = json.load(answer)["data"]["summary"]
        alive = [node for node in summary if node["raylet"].get("state") == "ALIVE"]
        if len(alive) >= nodes:
            return
        time.sleep(0.3)
    raise RuntimeError(f"only {len(alive)} nodes of {nodes} came up")


def _end(folder: Path, begun: list[subprocess.Popen[bytes]]) -> None:
    """End every process of this cluster: those begun, and whatever names its folder or port."""
    ours = set()
    for node in begun:
        if psutil.pid_exists(node.pid):
            top = psutil.Process(node.pid)
            ours |= {top, *top.children(recursive=True)}
    for process in psutil.process_iter(["cmdline", "environ"]):
        told = [*(process.info["cmdline"] or []), *(process.info["environ"] or {}).values()]
        if any(str(folder) in text for text in told):
            ours.add(process)
    ours.discard(psutil.Process())
    for process in ours:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(ours, timeout=3)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for node in begun:
        node.wait(timeout=30)
