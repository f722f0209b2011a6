"""A connection to the service: a request and its answer, tried again where that is safe."""

import contextlib
import http.client
import json
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from rayreid.settings import FailureError

BUSY = (429, 503)
"""Statuses of what was not begun: there was no room, or nobody."""
MOST_BETWEEN_S = 10.0
"""Longest time between two tries where the service does not say when."""


class ServiceError(FailureError):
    """Why the service did not answer: a status, its sentence, and when to try again.

    ``status`` is 0 where there was no answer at all, ``retry_after`` in seconds.
    """

    def __init__(
        self,
        status: int,
        sentence: str,
        retry_after: float | None = None,
        request_id: str | None = None,
    ):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
        self.retry_after, self.request_id = retry_after, request_id


@dataclass(frozen=True)
class Reply:
    """What came back: its type and its bytes."""

    kind: str
    body: bytes

    def tree(self) -> dict[str, Any]:
        """Return the JSON object that it is."""
        tree: dict[str, Any] = json.loads(self.body)
        return tree


class Connection:
    """A kept-alive connection to one service; for one thread at a time.

    ``retries`` is how often a request is tried again at most, ``patience`` how many seconds those
    waits may take together. It asks no proxy that the environment names. Raises `ValueError` for
    an address that is none.
    """

    def __init__(
        self, url: str, *, token: str | None, timeout: float, retries: int, patience: float
    ):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no service; write http://HOST:PORT")
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        self.url, self.prefix = url.rstrip("/"), parts.path.rstrip("/")
        self.http = kinds[parts.scheme](parts.hostname, parts.port, timeout=timeout)
        self.token, self.retries, self.patience = token, retries, patience

    def close(self) -> None:
        """End the connection."""
        self.http.close()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        kind: str = "application/json",
        *,
        again: bool = True,
    ) -> Reply:
        """Return the answer to a request; raises `ServiceError` where there is none.

        ``again`` says whether the request may be sent twice: it may where that does no more than
        once does.
        """
        # One id for all tries: the service's log then tells that they are one.
        headers = {"X-Request-Id": uuid.uuid4().hex, "Accept": "application/json, */*"}
        if body:
            headers["Content-Type"] = kind
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if not again:
            # A connection that was idle may be at its end, which shows only when it is used.
            self.http.close()
        deadline = time.monotonic() + self.patience
        tried = 0
        while True:
            try:
                return self._once(method, path, body, headers)
            except ServiceError as error:
                passing = error.status in BUSY or error.status == 0
                wait = error.retry_after
                if wait is None:
                    # Further apart each time, and never all clients at once.
                    wait = min(MOST_BETWEEN_S, 0.1 * 2**tried) * (0.5 + random.random())
                late = time.monotonic() + wait > deadline
                if not (again and passing) or tried >= self.retries or late:
                    raise
            time.sleep(wait)
            tried += 1

    def _once(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        try:
            # A body that is refused before it was all sent breaks the sending, not the answer.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.http.request(method, self.prefix + path, body or None, dict(headers))
            response = self.http.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.http.close()
            reason = str(error) or type(error).__name__
            raise ServiceError(0, f"{self.url} does not answer ({reason})") from error
        kind = response.headers.get("Content-Type", "")
        if 200 <= response.status < 300:
            return Reply(kind, content)
        raise _refusal(response.status, content, response.headers)


def _refusal(status: int, content: bytes, headers: http.client.HTTPMessage) -> ServiceError:
    try:
        sentence = str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        # Not ours: of a proxy before the service, for example.
        sentence = f"the service answered {status}: {content[:200].decode(errors='replace')}"
    wait = headers.get("Retry-After", "")
    # It may be a date, too, by RFC 9110; ours are seconds.
    seconds = float(wait) if wait.replace(".", "", 1).isdecimal() else None
    return ServiceError(status, sentence, seconds, headers.get("X-Request-Id"))


def form(images: Sequence[bytes], request: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return a multipart body of images and the rest of a request, and its content type."""
    boundary = uuid.uuid4().hex
    parts = []
    for number, image in enumerate(images):
        parts += [
            f'--{boundary}\r\nContent-Disposition: form-data; name="images"; '
            f'filename="{number}"\r\nContent-Type: application/octet-stream\r\n\r\n'.encode(),
            image,
            b"\r\n",
        ]
    parts += [
        f'--{boundary}\r\nContent-Disposition: form-data; name="request"\r\n\r\n'.encode(),
        json.dumps(request).encode(),
        f"\r\n--{boundary}--\r\n".encode(),
    ]
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"
