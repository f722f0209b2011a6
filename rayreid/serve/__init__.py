"""Trained methods behind HTTP on Ray Serve: starting and stopping the service."""

import http.client
import json
import logging
import os
import socket
import time
from collections.abc import Mapping

import rayreid.session  # noqa: F401 - before ray: it sets what ray reads on import

# isort: split
import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from rayreid.guard.audit import Audit
from rayreid.guard.connections import DoorSettings
from rayreid.guard.door import CALLBACK
from rayreid.guard.tokens import read_tokens
from rayreid.serve.app import DRAIN_S, QUIET, application, described
from rayreid.serve.ingress import APPLICATION
from rayreid.serve.models import Served
from rayreid.serve.settings import ServiceSettings
from rayreid.settings import FailureError

# Processes of a Ray that is started after this inherit it. Malloc gives threads arenas of their
# own, eight a core, and what Ray's many threads leave in them piles up from request to request.
os.environ.setdefault("MALLOC_ARENA_MAX", str(len(os.sched_getaffinity(0))))

log = logging.getLogger(__name__)

ALIVE_S = 5
"""How long the service may take to show that it is there."""


def check(settings: ServiceSettings) -> dict[str, Served]:
    """Return what each model of a service is, by name; Ray need not run.

    Raises `FileNotFoundError` or `ValueError` for a run that cannot be served, or a tokens file
    that others may read, `OSError` for a store that cannot be read.
    """
    settings = settings.absolute()
    if settings.tokens:
        read_tokens(settings.tokens)
    if settings.audit:
        Audit(settings.audit)
    return described(settings)


def start(
    settings: ServiceSettings,
    served: Mapping[str, Served] | None = None,
    *,
    timeout: float = 300.0,
) -> str:
    """Start a service on the running Ray, and return the base URL once it answers.

    On a cluster, runs lie on storage that all nodes share, and HTTP is answered by the head node
    alone. ``served`` is what `check` has returned, where it was called already; ``timeout`` is in
    seconds.

    A service that runs already is replaced: what it is asked meanwhile is answered by its old
    models or by the new ones. Raises `FileNotFoundError` or `ValueError` for a run that cannot be
    served, an address that cannot be had, a tokens file that others may read, or galleries in a
    folder where a cluster has several machines, before anything is deployed; `FailureError` where
    the service does not come up: one that ran before then goes on.
    """
    settings = settings.absolute()
    served = served or check(settings)
    target = serve.RunTarget(application(settings, served), name=APPLICATION)
    host, port = settings.host, settings.port
    if serve.status().proxies:
        _refuse_elsewhere(host, port)
    else:
        _refuse_taken(host, port)
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(host=host, port=port, request_timeout_s=settings.limits.seconds),
        logging_config=QUIET,
    )
    replacing = APPLICATION in serve.status().applications
    deadline = time.monotonic() + timeout
    try:
        serve.run_many([target], wait_for_applications_running=False)
        _await_running(deadline)
        default = next(iter(served.values()))
        url = _await_answer(host, port, default.fingerprint, deadline)
    except BaseException:
        if not replacing:
            stop(drain=0.0)
        raise
    if not _has_door(host, port):
        log.warning(
            "Serve's proxy bounds neither connections nor headers; start Ray's head node with "
            "%s=%s in its environment, or put a gateway in front",
            CALLBACK,
            os.environ[CALLBACK],
        )
    return url


def _has_door(host: str, port: int) -> bool:
    """Return whether the proxy has `rayreid.guard.door`: it refuses headers that are too long."""
    status, _ = _get(host, port, "/-/healthz", {"X-Long": "x" * 2 * DoorSettings().header_bytes})
    return status == 431


_ANSWERING = (
    ApplicationStatus.RUNNING,
    ApplicationStatus.DEPLOYING,
    ApplicationStatus.UNHEALTHY,
)


def stop(drain: float = DRAIN_S) -> None:
    """End the service once what it was asked is answered, and Serve where it serves nothing else.

    Requests that come from now on are refused with 503; those under way have ``drain`` seconds.
    """
    application = serve.status().applications.get(APPLICATION)
    if application is not None:
        # One that is being replaced, or lost a replica, answers too.
        if drain and application.status in _ANSWERING:
            _drain(drain)
        serve.delete(APPLICATION)
    if not serve.status().applications:
        serve.shutdown()


def _drain(seconds: float) -> None:
    """Wait for what is under way: replicas that end at the same time would lose it."""
    try:
        drained = serve.get_app_handle(APPLICATION).drained.remote(seconds)
        if not drained.result(timeout_s=seconds + ALIVE_S):
            log.warning("after %.0f s there are still requests under way; they are lost", seconds)
    except (TimeoutError, RayServeException, RayError) as error:
        log.warning("the service did not tell what is under way (%s); it ends now", error)


def _refuse_taken(host: str, port: int) -> None:
    """Raise `ValueError` for an address that cannot be listened on.

    Serve's proxy would share a taken port with its owner, and get some of the requests.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"{host} port {port} cannot be listened on ({error.strerror}); choose another port"
            ) from None


def _refuse_elsewhere(host: str, port: int) -> None:
    """Raise `ValueError` where the Serve that is running does not listen at this address."""
    try:
        status, _ = _get(host, port, "/-/healthz")
    except (OSError, http.client.HTTPException):
        status = 0
    if status != 200:
        raise ValueError(
            f"Ray Serve is already running on this cluster, and not at {_url(host, port)}; "
            "start at its address, or stop it first"
        )


def _await_running(deadline: float) -> None:
    while True:
        application = serve.status().applications[APPLICATION]
        if application.status == ApplicationStatus.RUNNING:
            return
        if application.status == ApplicationStatus.DEPLOY_FAILED or time.monotonic() > deadline:
            break
        # Asking takes a tenth of a second's work, of which the start has need.
        time.sleep(0.5)
    reasons = [
        f"{name}: {deployment.message.strip().splitlines()[-1]}"
        for name, deployment in application.deployments.items()
        if deployment.message.strip()
    ]
    # No message: the replicas wait for a place.
    there = {name: ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU")}
    reason = "; ".join(reasons) or f"too little is free of the cluster's {there}"
    raise FailureError(f"the service did not start: {reason}")


def _await_answer(host: str, port: int, fingerprint: str, deadline: float) -> str:
    """Return the service's address when it answers there, and as what it should be."""
    reason = "no time was left"
    while time.monotonic() < deadline:
        try:
            _, body = _get(host, port, "/healthz")
            if json.loads(body).get("fingerprint") == fingerprint:
                return _url(host, port)
            reason = "another service does"
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(error)
        time.sleep(0.1)
    raise FailureError(f"the service runs but does not answer at {_url(host, port)} ({reason})")


def _reachable(host: str) -> str:
    """Return where to ask who listens at ``host``: all addresses include the loopback one."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _url(host: str, port: int) -> str:
    host = _reachable(host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _get(
    host: str, port: int, path: str, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    # http.client, unlike others, asks no proxy that the environment names.
    connection = http.client.HTTPConnection(_reachable(host), port, timeout=ALIVE_S + 1)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
