"""Ray's job API, with a token, with time limits, and with errors in a sentence."""

import importlib.metadata
import json
import logging
import os
import shlex
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from rayreid.cluster.job import Job
from rayreid.cluster.named import Cluster
from rayreid.cluster.token import Token, find_token
from rayreid.settings import FailureError, unknown

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# isort: split
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

RAY_NEEDED = (2, 60)
"""The first Ray that rayreid runs on."""
CONNECT_SECONDS, SILENT_SECONDS = 5, 60
"""How long a connection may take to open, and an answer to come."""
_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


class JobClient(JobSubmissionClient):
    """A cluster's jobs.

    Made, it has found a cluster that answers, asks for a token (or was accepted without) and
    takes ours, in a version that rayreid runs on. Else it raises `ConnectionError`,
    `PermissionError` or `ValueError`, in a sentence.
    """

    def __init__(self, name: str, cluster: Cluster, *, without_authentication: bool = False):
        self.name, self.cluster = name, cluster
        # Before anything else, and alone: a token goes to nobody who does not ask for it.
        mode = _authentication(cluster.address)
        self.token: Token | None = None
        if mode == "disabled":
            if not (without_authentication or cluster.without_authentication):
                raise PermissionError(
                    f"the cluster at {cluster.address} asks for no token, and so runs code for "
                    "whoever reaches it; start it with RAY_AUTH_MODE=token, or say "
                    "--without-authentication"
                )
        else:
            self.token = find_token(cluster.token_file)
            if self.token is None:
                raise PermissionError(
                    f"the cluster at {cluster.address} asks for a token, and there is none here; "
                    "copy its token into ~/.ray/auth_token, mode 0600, or name its file as "
                    "token_file of the cluster"
                )
        # An empty one keeps Ray from adding the token at hand, where the environment turns them on.
        headers = {"Authorization": f"Bearer {self.token.secret}" if self.token else ""}
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
        with _only_this_address():
            super().__init__(cluster.address, headers=headers)
        self.ray = str(self._server_ray_version)
        if tuple(map(int, self.ray.split(".")[:2])) < RAY_NEEDED:
            needed = ".".join(map(str, RAY_NEEDED))
            raise ValueError(
                f"the cluster at {cluster.address} runs Ray {self.ray}, and rayreid "
                f"{importlib.metadata.version('rayreid')} needs {needed} or newer (here is "
                f"{importlib.metadata.version('ray')}); start it with that"
            )

    def again(self, verb: str, job: str, *options: str) -> str:
        """Return the command that does something with a job of this cluster."""
        return shlex.join(["rayreid", verb, job, *options, "--cluster", self.name])

    @property
    def unencrypted(self) -> bool:
        """Return whether the token travels in clear text beyond this machine."""
        parts = urlsplit(self.cluster.address)
        near = parts.hostname in ("localhost", "127.0.0.1", "::1")
        return self.token is not None and parts.scheme == "http" and not near

    def jobs(self) -> dict[str, Job]:
        """Return the jobs that were submitted to the cluster, the latest last."""
        found = [_told(details) for details in self.list_jobs() if details.submission_id]
        return {job.name: job for job in sorted(found, key=lambda job: job.began or 0.0)}

    def job(self, name: str) -> Job:
        """Return the job of a name that is one."""
        return _told(self.get_job_info(name))

    def find(self, text: str) -> Job:
        """Return the job of a name, or of the beginning of one; `ValueError` for none."""
        jobs = self.jobs()
        if text in jobs:
            return jobs[text]
        begun = [name for name in jobs if name.startswith(text)]
        if len(begun) == 1:
            return jobs[begun[0]]
        if begun:
            raise ValueError(f"{text!r} may be any of {', '.join(begun)}; write more of it")
        if not jobs:
            raise ValueError(f"there is no job {text!r} on {self.name}, nor any other")
        raise unknown(f"job on {self.name}", text, list(jobs)[-20:])

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        """Ask the cluster, as all of Ray's methods do; a failure is a sentence."""
        where = self.cluster.address
        if self.token is None:
            self._headers.pop("Authorization", None)
        try:
            answer = super()._do_request(
                method, endpoint, timeout=(CONNECT_SECONDS, SILENT_SECONDS),
                allow_redirects=False, **options,
            )  # fmt: skip
        except AuthenticationError as error:
            place = self.token.place if self.token else "no file"
            if "required" in str(error).partition("\n")[0]:
                raise PermissionError(f"the cluster at {where} asks for a token (401)") from None
            raise PermissionError(
                f"the cluster at {where} refuses the token of {place} (403); copy the one that it "
                "was started with"
            ) from None
        except OSError as error:
            raise _unreachable(where, error) from None
        if 300 <= answer.status_code < 400:
            place = answer.headers.get("Location", "elsewhere")
            raise ConnectionError(f"{where} sends one on to {place}; give that address, if it is")
        asked_only = method.upper().startswith("GET")
        if asked_only and answer.status_code >= 500:
            raise ConnectionError(
                f"the cluster at {where} cannot answer just now ({answer.status_code} for "
                f"{endpoint}); a node may be down"
            )
        return answer

    @contextmanager
    def told(self, what: str) -> Iterator[None]:
        """Turn what Ray raises about a request into a sentence."""
        try:
            yield
        except RuntimeError as error:
            said = [line for line in str(error).splitlines() if line.strip(" .")]
            raise FailureError(f"{self.name} cannot {what}: {said[-1].strip()}") from None


def _told(details: JobDetails) -> Job:
    began, ended = ((at or 0) / 1000 or None for at in (details.start_time, details.end_time))
    return Job(
        details.submission_id or "",
        details.status.lower(),
        details.metadata or {},
        began,
        ended,
        details.message or "",
        details.driver_exit_code,
    )


def _authentication(address: str) -> str:
    """Return the mode of authentication of a cluster, which is told without one."""
    url = f"{address}/api/authentication_mode"
    try:
        with _opener.open(url, timeout=CONNECT_SECONDS) as answer:
            found = json.load(answer)
        mode = found["authentication_mode"]
    except urllib.error.HTTPError as error:
        raise ConnectionError(
            f"{address} answers with {error.code}, unlike a dashboard of Ray "
            f"{'.'.join(map(str, RAY_NEEDED))} or newer; check the address, and Ray's version there"
        ) from None
    except (OSError, urllib.error.URLError) as error:
        raise _unreachable(address, error) from None
    except (ValueError, KeyError, TypeError):
        raise ConnectionError(
            f"what answers at {address} is no dashboard of Ray; check host and port"
        ) from None
    return str(mode)


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        return None


_opener = urllib.request.build_opener(_Stay)


def _unreachable(address: str, error: BaseException) -> ConnectionError:
    cause: object = error
    while isinstance(cause, BaseException):
        inner = getattr(cause, "reason", None) or next(
            (a for a in cause.args if isinstance(a, BaseException)), None
        )
        if inner is None or inner is cause:
            break
        cause = inner
    reason = getattr(cause, "strerror", None) or str(cause).rpartition(": ")[2]
    port = urlsplit(address).port or (443 if address.startswith("https") else 80)
    return ConnectionError(
        f"no head answers at {address} ({reason}); is the cluster up, and this port reachable from "
        f"here, e.g. by ssh -N -L {port}:127.0.0.1:{port} HEAD?"
    )


@contextmanager
def _only_this_address() -> Iterator[None]:
    """Hide addresses that Ray would prefer to the one given: our token is not for them."""
    kept: Mapping[str, str] = {n: os.environ.pop(n) for n in _ADDRESSES if n in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
