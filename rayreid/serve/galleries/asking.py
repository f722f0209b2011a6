"""The galleries as the service's routes ask them, wherever their keeper is."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from rayreid.serve.bodies import SampleBody
from rayreid.serve.galleries.keeper import READS
from rayreid.serve.galleries.records import Binding, Gallery, Identity, Receipt, Removal, Sample
from rayreid.serve.galleries.searching import Searched, Wanted
from rayreid.serve.galleries.settings import GalleriesSettings
from rayreid.serve.models import Given, Served, Work
from rayreid.serve.refusals import RefusalError, Refused


@runtime_checkable
class Searchers(Protocol):
    """Those who hold snapshots, by their models' names; what is awaited raises `RefusalError`."""

    async def search(
        self, name: str, work: Work, groups: Sequence[Sequence[int]], wanted: Wanted
    ) -> Searched:
        """Return what queries find in a gallery, each some of a request's items."""

    async def forget(self) -> int:
        """Bring all snapshots up to date with the store; return how many processes did."""


class Galleries:
    """What a keeper and the searchers are asked; all raise `RefusalError`.

    ``ask`` calls a verb of the keeper (`rayreid.serve.galleries.keeper.VERBS`), ``read`` one of
    `READS` of who reads beside it, by default the keeper too.
    """

    def __init__(
        self,
        ask: Callable[..., Awaitable[object]],
        searchers: Searchers,
        settings: GalleriesSettings,
        read: Callable[..., Awaitable[object]] | None = None,
    ):
        self.ask, self.searchers, self.settings = ask, searchers, settings
        self.read = read or ask

    async def ready(self) -> None:
        """Return when the store can be asked, or is at work on what it was asked."""
        await self._asked("ready")

    async def names(self) -> list[str]:
        """Return the names of all galleries."""
        return list(await self._asked("names"))

    async def create(self, name: str, served: Served) -> Gallery:
        """Make a gallery for a model's embeddings."""
        binding = Binding(
            served.name, served.fingerprint, served.preprocessing, tuple(served.embedding)
        )
        gallery: Gallery = await self._asked("create", name, binding)
        return gallery

    async def page(self, after: str, limit: int) -> list[Gallery]:
        """Return galleries in the order of their names, the first after a name."""
        return list(await self._asked("galleries", after, limit))

    async def get(self, name: str) -> Gallery:
        """Return one gallery."""
        gallery: Gallery = await self._asked("gallery", name)
        return gallery

    async def delete(self, name: str) -> None:
        """Do away with a gallery, and have all forget it."""
        try:
            await self._asked("delete", name)
        finally:
            # Also where none is there: a call before this one may have failed halfway.
            await self.searchers.forget()

    async def enrol(
        self,
        name: str,
        samples: Sequence[Sample],
        embeddings: Float32[np.ndarray, "n *e"],
        served: Served,
    ) -> int:
        """Add samples that a model embedded; return the version that has them, on the disk."""
        by = served.fingerprint, served.preprocessing
        return int(await self._asked("enrol", name, tuple(samples), embeddings, *by))

    async def samples(
        self, name: str, identity: str | None, after: str, limit: int
    ) -> list[Sample]:
        """Return samples in the order of their ids, the first after an id."""
        return [*await self._asked("samples", name, identity, after, limit)]

    async def identities(self, name: str, after: str, limit: int) -> list[Identity]:
        """Return identities in the order of their names, the first after a name."""
        return [*await self._asked("identities", name, after, limit)]

    async def identity(self, name: str, identity: str) -> Identity:
        """Return one identity."""
        found: Identity = await self._asked("identity", name, identity)
        return found

    async def rename(self, name: str, identity: str, to: str) -> int:
        """Give an identity another name; return the version."""
        return int(await self._asked("rename", name, identity, to))

    async def merge(self, name: str, identity: str, into: str) -> int:
        """Give an identity's samples to another one; return the version."""
        return int(await self._asked("merge", name, identity, into))

    async def remove(self, name: str, removal: Removal) -> int:
        """Make what is named invisible; return the version."""
        return int(await self._asked("remove", name, removal))

    async def purge(self, name: str, removal: Removal) -> tuple[Receipt, int]:
        """Erase what is named; return the receipt, and how many snapshots were brought up to it."""
        receipt: Receipt = await self._asked("purge", name, removal)
        return receipt, await self.searchers.forget()

    async def embeddings(self, samples: Sequence[SampleBody], served: Served) -> list[Given]:
        """Return the embeddings of enrolled samples, in order.

        Raises `RefusalError`: 404 where one is not enrolled, 409 where a gallery is another
        model's.
        """
        found: dict[tuple[str, str], Given] = {}
        for name in dict.fromkeys(sample.gallery for sample in samples):
            bound = (await self.get(name)).binding
            if (bound.fingerprint, bound.preprocessing) != (
                served.fingerprint,
                served.preprocessing,
            ):
                raise RefusalError(409, another_models(name, bound, served))
            ids = list(dict.fromkeys(one.sample for one in samples if one.gallery == name))
            rows: np.ndarray = await self._asked("embeddings", name, ids)
            found |= {
                (name, one): Given(served.fingerprint, row)
                for one, row in zip(ids, rows, strict=True)
            }
        return [found[one.gallery, one.sample] for one in samples]

    async def _asked(self, verb: str, *arguments: object) -> Any:
        ask = self.read if verb in READS else self.ask
        answer = await ask(verb, *arguments)
        if isinstance(answer, Refused):
            raise answer.error()
        return answer


def another_models(name: str, bound: Binding, served: Served) -> str:
    """Return the sentence about a gallery that is not a model's."""
    return (
        f"the gallery {name!r} holds embeddings of weights {bound.fingerprint} with preprocessing "
        f"{bound.preprocessing}, and model {served.name!r} has {served.fingerprint} with "
        f"{served.preprocessing}; use the gallery's model, or enrol into a new gallery"
    )
