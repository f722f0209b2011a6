"""Places for data: no test writes below a home, and the S3 tests share one server."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rayreid.data import storage


@pytest.fixture(autouse=True)
def _no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("RAYREID_CACHE", raising=False)


@dataclass(frozen=True)
class ObjectStore:
    """A server that speaks S3 and checks signatures, with a bucket and a user's key."""

    host: str
    bucket: str
    key: str
    secret: str

    def address(self, prefix: str) -> str:
        return f"s3://{self.bucket}/{prefix}?endpoint_override={self.host}&scheme=http"


@pytest.fixture(scope="session")
def store_server() -> Iterator[ObjectStore]:
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


@pytest.fixture
def object_store(
    store_server: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectStore]:
    """Return the server, with the environment's credentials set for it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store_server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store_server.secret)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage._system.cache_clear()
    yield store_server
    storage._system.cache_clear()
