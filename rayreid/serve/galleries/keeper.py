"""The one writer of the galleries: it owns the store, and does what it is asked in turn."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from rayreid.serve.galleries.opening import open_store, take_over
from rayreid.serve.galleries.records import (
    BrokenError,
    ConflictError,
    FullError,
    GalleryError,
    GalleryLimits,
    MissingError,
    UnavailableError,
    UnreadableError,
)
from rayreid.serve.galleries.store import Store
from rayreid.serve.refusals import RETRY_AFTER_S, Refused

log = logging.getLogger(__name__)

TAKEOVER_S = 10.0
"""How long a keeper waits for the one before it to be gone."""
VERBS: Final = frozenset(
    {
        "create",
        "delete",
        "embeddings",
        "enrol",
        "galleries",
        "gallery",
        "identities",
        "identity",
        "merge",
        "names",
        "purge",
        "ready",
        "remove",
        "rename",
        "samples",
    }
)
"""What a keeper does: methods of `rayreid.serve.galleries.store.Store`, and to say it is ready."""

READS: Final = frozenset(
    {"embeddings", "galleries", "gallery", "identities", "identity", "names", "samples"}
)
"""Those that change nothing, which `Lister` does too."""

_STATUSES: Final[dict[type[GalleryError], int]] = {
    BrokenError: 500,
    ConflictError: 409,
    FullError: 507,
    MissingError: 404,
    UnavailableError: 503,
    UnreadableError: 422,
}


class Keeper:
    """Owns a store. Raises `UnavailableError` where another process does."""

    def __init__(self, address: str, limits: GalleryLimits):
        # One thread: what is asked is done in turn, and the event loop stays free.
        self.thread = ThreadPoolExecutor(1, "galleries")
        self.store = self.thread.submit(take_over, address, limits, TAKEOVER_S).result()
        self.under_way = 0

    async def ask(self, verb: str, *arguments: object) -> object:
        """Return what the store does, or a `Refused`, not raised: logs are no place for names."""
        assert verb in VERBS, verb
        if verb == "ready":
            if self.under_way:
                return None  # at work: a large purge takes long, and is no reason to be replaced
            verb = "names"
        loop, method = asyncio.get_running_loop(), getattr(self.store, verb)
        self.under_way += 1
        try:
            return await loop.run_in_executor(self.thread, method, *arguments)
        except GalleryError as error:
            return refused(error)
        finally:
            self.under_way -= 1

    def close(self) -> None:
        """Let go of the store."""
        self.thread.submit(self.store.close).result()
        self.thread.shutdown()


class Lister:
    """Reads a store beside its keeper, in another process: nobody waits for what that writes.

    Two in one process would be one to the system's locks of files.
    """

    def __init__(self, address: str, limits: GalleryLimits):
        self.address, self.limits = address, limits
        self.thread = ThreadPoolExecutor(1, "lister")
        self.store: Store | None = None

    async def ask(self, verb: str, *arguments: object) -> object:
        """Return what the store says, or a `Refused`; what was acknowledged before is in it."""
        assert verb in READS, verb
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.thread, self._read, verb, arguments)

    def _read(self, verb: str, arguments: tuple[object, ...]) -> object:
        try:
            if self.store is None:
                # The keeper has made it by then, as it is asked for readiness first.
                self.store = open_store(self.address, self.limits, writable=False)
            return getattr(self.store, verb)(*arguments)
        except GalleryError as error:
            return refused(error)


def refused(error: GalleryError) -> Refused:
    """Return an error of the store as the service answers it."""
    if isinstance(error, BrokenError):
        log.error("%s", error.sentence)
    retry = RETRY_AFTER_S if isinstance(error, UnavailableError) else None
    return Refused(_STATUSES[type(error)], error.sentence, retry)
