"""An object store for tests: a server that speaks S3, and a line to it that can be cut."""

import json
import select
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest


@dataclass(frozen=True)
class ObjectStore:
    """A server that speaks S3 and checks signatures, with a bucket and a user's key."""

    host: str
    bucket: str
    key: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        """The credentials, as a shell that uses the store has them."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def address(self, prefix: str) -> str:
        return f"s3://{self.bucket}/{prefix}?endpoint_override={self.host}&scheme=http"


@contextmanager
def serving_s3() -> Iterator[ObjectStore]:
    boto3 = pytest.importorskip("boto3", reason="moto[server,s3] is not installed")
    pytest.importorskip("moto", reason="moto[server,s3] is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(url, server)
            someone = {"aws_access_key_id": "root", "aws_secret_access_key": "root"}
            options = {"endpoint_url": url, "region_name": "us-east-1", **someone}
            iam = boto3.client("iam", **options)
            iam.create_user(UserName="reader")
            key = iam.create_access_key(UserName="reader")["AccessKey"]
            may = [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]
            policy = json.dumps({"Version": "2012-10-17", "Statement": may})
            iam.put_user_policy(UserName="reader", PolicyName="s3", PolicyDocument=policy)
            boto3.client("s3", **options).create_bucket(Bucket="reid")
            # From now on, signatures are checked.
            plain = {"Content-Type": "text/plain"}
            request = urllib.request.Request(f"{url}/moto-api/reset-auth", b"0", plain)
            urllib.request.urlopen(request, timeout=10).close()
            yield ObjectStore(
                f"127.0.0.1:{port}", "reid", key["AccessKeyId"], key["SecretAccessKey"]
            )
        finally:
            server.terminate()


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert server.poll() is None, "the S3 server ended"
        try:
            urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the S3 server does not answer")


class Line:
    """A TCP line to a server: `cut` refuses and drops all connections, `mend` lets them through."""

    def __init__(self, to: str):
        host, _, port = to.partition(":")
        self.to = (host, int(port))
        self.up, self.over = threading.Event(), threading.Event()
        self.up.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.up.clear()

    def mend(self) -> None:
        self.up.set()

    def close(self) -> None:
        self.over.set()
        self.up.clear()
        self.listener.close()

    def _accept(self) -> None:
        while not self.over.is_set():
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if not self.up.is_set():
                client.close()
                continue
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self.to)
        except OSError:
            client.close()
            return
        with client, server:
            ends = {client: server, server: client}
            while self.up.is_set():
                ready, _, _ = select.select(list(ends), [], [], 0.05)
                for end in ready:
                    try:
                        data = end.recv(2**16)
                        if not data:
                            return
                        ends[end].sendall(data)
                    except OSError:
                        return


@contextmanager
def cuttable(store: ObjectStore) -> Iterator[tuple[ObjectStore, Line]]:
    """Yield the store as it is reached by a line of its own, and the line."""
    line = Line(store.host)
    try:
        yield replace(store, host=f"127.0.0.1:{line.port}"), line
    finally:
        line.close()
