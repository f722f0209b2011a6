"""A client of the service, typed; it needs neither torch nor Ray.

with Client("http://127.0.0.1:8000") as client:
    print(client.match_pairs([(0, 1)], images=[Path("a.jpg"), Path("b.jpg")]).scores)
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from rayreid.client.answers import (
    Embedded,
    Embedding,
    Enrolled,
    EnrolledSample,
    Explanation,
    Gallery,
    Identity,
    Matrix,
    Model,
    Pairs,
    Receipt,
    Sample,
    Search,
    made,
)
from rayreid.client.connection import Connection, Reply, ServiceError, form

__all__ = ["Client", "Embedding", "Sample", "ServiceError"]

Image = Path | bytes
"""An encoded image, or the file that it is in."""
T = TypeVar("T")
PAGE = 500
"""Entries that a list is fetched by."""


class Client:
    """A service by its address; for one thread at a time.

    ``token`` is what the service asks callers for, or ``token_file`` a file that holds it. What is
    refused for lack of room is asked again, up to ``retries`` times within ``patience`` seconds and
    no earlier than the service says; so is what got no answer, where asking twice does no more
    than asking once. All else that goes wrong is a `ServiceError`; an address that is none, or a
    file that others can read, a `ValueError`.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        token: str | None = None,
        token_file: Path | None = None,
        timeout: float = 90.0,
        retries: int = 5,
        patience: float = 60.0,
    ):
        if token_file is not None:
            token = _token(token_file)
        self.connection = Connection(
            url, token=token, timeout=timeout, retries=retries, patience=patience
        )

    def __enter__(self) -> "Client":
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the client."""
        self.close()

    def close(self) -> None:
        """End the connection."""
        self.connection.close()

    def models(self) -> list[Model]:
        """Return the served models, the default first."""
        return [made(Model, one) for one in self._get("/v1/models")["models"]]

    def ready(self) -> bool:
        """Return whether the service says that all that it needs is there."""
        try:
            self.connection.ask("GET", "/readyz", again=False)
        except ServiceError as error:
            if error.status == 503:
                return False
            raise
        return True

    def metrics(self) -> str:
        """Return the service's counts in Prometheus' text format."""
        return self.connection.ask("GET", "/metrics").body.decode()

    def embed(self, images: Sequence[Image], *, model: str | None = None) -> Embedded:
        """Return the embeddings of images."""
        return made(Embedded, self._send("/v1/embed", images, model=model).tree())

    def match_pairs(
        self,
        pairs: Sequence[tuple[int, int]],
        *,
        images: Sequence[Image] = (),
        embeddings: Sequence[Embedding] = (),
        samples: Sequence[Sample] = (),
        model: str | None = None,
        false_accept_rate: float | None = None,
    ) -> Pairs:
        """Return the scores of pairs of items, numbered images, embeddings, samples."""
        reply = self._send(
            "/v1/match/pairs", images, embeddings, samples, model=model,
            pairs=[list(pair) for pair in pairs], false_accept_rate=false_accept_rate,
        )  # fmt: skip
        return made(Pairs, reply.tree())

    def match_matrix(
        self,
        queries: Sequence[int],
        gallery: Sequence[int],
        *,
        images: Sequence[Image] = (),
        embeddings: Sequence[Embedding] = (),
        samples: Sequence[Sample] = (),
        model: str | None = None,
    ) -> Matrix:
        """Return the scores of all queries against all of a gallery, by items' numbers."""
        reply = self._send(
            "/v1/match/matrix", images, embeddings, samples, model=model,
            queries=list(queries), gallery=list(gallery),
        )  # fmt: skip
        return made(Matrix, reply.tree())

    def search(
        self,
        gallery: str,
        *,
        images: Sequence[Image] = (),
        embeddings: Sequence[Embedding] = (),
        samples: Sequence[Sample] = (),
        queries: Sequence[Sequence[int]] | None = None,
        top_k: int | None = None,
        shortlist: int | None = None,
        fusion: str | None = None,
        filters: Mapping[str, Any] | None = None,
        false_positive_identification_rate: float | None = None,
        model: str | None = None,
    ) -> Search:
        """Return who of a gallery the queries may show; ``queries`` groups items of one person.

        ``filters`` are ``cameras``, ``tags``, ``from`` and ``to`` (ISO 8601 with a zone);
        ``fusion`` is ``mean`` or ``max`` of the scores of one person's items.
        """
        reply = self._send(
            "/v1/match/search", images, embeddings, samples, model=model, gallery=gallery,
            queries=queries and [list(group) for group in queries], top_k=top_k,
            shortlist=shortlist, fusion=fusion, filters=filters and dict(filters),
            false_positive_identification_rate=false_positive_identification_rate,
        )  # fmt: skip
        return made(Search, reply.tree())

    def explain(
        self, a: Image, b: Image, *, model: str | None = None, lines: int | None = None
    ) -> Explanation:
        """Return which regions of two images matched, and the ``lines`` matches that add most."""
        reply = self._send("/v1/explain/pair", [a, b], model=model, lines=lines)
        return made(Explanation, reply.tree())

    def explain_png(self, a: Image, b: Image, *, model: str | None = None) -> bytes:
        """Return a picture of which regions of two images matched."""
        return self._send("/v1/explain/pair", [a, b], model=model, format="png").body

    def create_gallery(self, name: str, *, model: str | None = None) -> Gallery:
        """Make an empty gallery for a model's embeddings."""
        reply = self._send("/v1/galleries", name=name, model=model, again=False)
        return made(Gallery, reply.tree())

    def galleries(self) -> Iterator[Gallery]:
        """Yield all galleries."""
        return (made(Gallery, one) for one in self._pages("/v1/galleries", "galleries"))

    def gallery(self, name: str) -> Gallery:
        """Return what a gallery holds."""
        return made(Gallery, self._get(_at(name)))

    def delete_gallery(self, name: str) -> None:
        """Do away with a gallery and all that is in it."""
        self.connection.ask("DELETE", _at(name), again=False)

    def enrol(
        self,
        gallery: str,
        identities: Sequence[str],
        *,
        images: Sequence[Image] = (),
        embeddings: Sequence[Embedding] = (),
        cameras: Sequence[str | None] | None = None,
        times: Sequence[str | None] | None = None,
        tags: Sequence[Sequence[str]] | None = None,
        ids: Sequence[str] | None = None,
        model: str | None = None,
    ) -> Enrolled:
        """Enrol samples, each with its identity; they are on the disk when this returns.

        Without ``ids`` nothing is sent twice: the second time would enrol the samples again. With
        them, `ServiceError` 409 after a lost answer says that they are there.
        """
        reply = self._send(
            _at(gallery, "samples"), images, embeddings, model=model,
            identities=list(identities), cameras=cameras and list(cameras),
            times=times and list(times), tags=tags and [list(one) for one in tags],
            ids=ids and list(ids), again=ids is not None,
        )  # fmt: skip
        return made(Enrolled, reply.tree())

    def samples(self, gallery: str, identity: str | None = None) -> Iterator[EnrolledSample]:
        """Yield a gallery's samples, or those of one identity."""
        found = self._pages(_at(gallery, "samples"), "samples", identity=identity)
        return (made(EnrolledSample, one) for one in found)

    def delete_sample(self, gallery: str, sample: str) -> int:
        """Make a sample invisible; `purge` makes it gone. Return the gallery's version then."""
        return _version(self.connection.ask("DELETE", _at(gallery, "samples", sample), again=False))

    def identities(self, gallery: str) -> Iterator[Identity]:
        """Yield a gallery's identities."""
        found = self._pages(_at(gallery, "identities"), "identities")
        return (made(Identity, one) for one in found)

    def identity(self, gallery: str, name: str) -> Identity:
        """Return an identity."""
        return made(Identity, self._get(_at(gallery, "identities", name)))

    def rename_identity(self, gallery: str, identity: str, name: str) -> int:
        """Give an identity another name; return the gallery's version then."""
        path = _at(gallery, "identities", identity)
        return _version(self._send(path, method="PATCH", again=False, name=name))

    def merge_identities(self, gallery: str, identity: str, into: str) -> int:
        """Give an identity's samples to another one, which it is; return the version then."""
        path = _at(gallery, "identities", identity, "merge")
        return _version(self._send(path, again=False, into=into))

    def delete_identity(self, gallery: str, identity: str) -> int:
        """Make an identity invisible; `purge` makes it gone. Return the gallery's version then."""
        path = _at(gallery, "identities", identity)
        return _version(self.connection.ask("DELETE", path, again=False))

    def purge(
        self,
        gallery: str,
        *,
        identities: Sequence[str] = (),
        samples: Sequence[str] = (),
        everything: bool = False,
    ) -> Receipt:
        """Erase from a gallery without a trace, and return the receipt."""
        wanted = {"identities": list(identities), "samples": list(samples), "all": everything}
        reply = self.connection.ask("POST", _at(gallery, "purge"), json.dumps(wanted).encode())
        return made(Receipt, reply.tree())

    def _get(self, path: str) -> dict[str, Any]:
        return self.connection.ask("GET", path).tree()

    def _pages(self, path: str, entries: str, **query: str | None) -> Iterator[dict[str, Any]]:
        after: str | None = ""
        while after is not None:
            chosen = {**query, "after": after or None, "limit": str(PAGE)}
            text = urlencode({name: value for name, value in chosen.items() if value is not None})
            page = self._get(f"{path}?{text}")
            yield from page[entries]
            after = page["next"]

    def _send(
        self,
        path: str,
        images: Sequence[Image] = (),
        embeddings: Sequence[Embedding] = (),
        samples: Sequence[Sample] = (),
        *,
        method: str = "POST",
        again: bool = True,
        **fields: Any,
    ) -> Reply:
        request = {name: value for name, value in fields.items() if value is not None}
        if embeddings:
            request["embeddings"] = [asdict(one) for one in embeddings]
        if samples:
            request["samples"] = [asdict(one) for one in samples]
        if not images:
            body = json.dumps(request).encode()
            return self.connection.ask(method, path, body, again=again)
        encoded = [one.read_bytes() if isinstance(one, Path) else one for one in images]
        body, kind = form(encoded, request)
        return self.connection.ask(method, path, body, kind, again=again)


def _at(gallery: str, *below: str) -> str:
    """Return a gallery's path, or one below it; names are data and are quoted whole."""
    return "/".join(["/v1/galleries", *(quote(part, safe="") for part in (gallery, *below))])


def _version(changed: Reply) -> int:
    return int(changed.tree()["version"])


def _token(file: Path) -> str:
    if file.stat().st_mode & 0o077:
        raise ValueError(f"{file} can be read by others; chmod 600 {file}")
    return file.read_text().strip()
