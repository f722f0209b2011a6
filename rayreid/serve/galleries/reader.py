"""Galleries as a process that searches them holds them: in memory, read from the store itself."""

from collections import OrderedDict
from contextlib import suppress

from rayreid.serve.galleries.opening import open_store
from rayreid.serve.galleries.records import GalleryError, GalleryLimits, UnavailableError
from rayreid.serve.galleries.snapshot import Model, Snapshot
from rayreid.serve.galleries.store import Store


class Reader:
    """Snapshots of the galleries that were asked for last, as many as memory is allowed for.

    Used by one thread at a time; what it returns may be searched by another.
    """

    def __init__(self, address: str, limits: GalleryLimits, model: Model, most_bytes: int):
        self.address, self.limits = address, limits
        self.model, self.most_bytes = model, most_bytes
        self.snapshots: OrderedDict[str, Snapshot] = OrderedDict()
        self.opened: Store | None = None

    @property
    def store(self) -> Store:
        """Return the store, which need not be there before it is first asked for."""
        if self.opened is None:
            self.opened = open_store(self.address, self.limits, writable=False)
        return self.opened

    def snapshot(self, name: str) -> Snapshot:
        """Return a gallery as it is now: whatever was acknowledged before the call is in it.

        Raises `GalleryError`s: `ConflictError` for another model's, `UnavailableError` where it
        takes more memory than is allowed.
        """
        try:
            head = self.store.tables(name).head()
            self.model.check(head)
            size = 4 * head.samples * sum(self.model.widths(head.binding.shape))
            if size > self.most_bytes:
                raise UnavailableError(
                    f"the gallery {name!r} takes {size} bytes of memory, more than "
                    f"{self.most_bytes}; allow more, or divide it"
                )
            known = self.snapshots.pop(name, None) or Snapshot(self.model)
            while self.snapshots and size + self._bytes() > self.most_bytes:
                self.snapshots.popitem(last=False)
            known.refresh(self.store, name)
        except GalleryError:
            # Deleted, made anew for another model, grown too large, broken, out of reach: what is
            # held of it cannot be brought up to date, and is not kept as it was.
            self.snapshots.pop(name, None)
            raise
        self.snapshots[name] = known
        return known

    def forget(self) -> None:
        """Bring all that is held up to date, so that nothing which was erased is held.

        What cannot be brought up to date is let go.
        """
        for name in list(self.snapshots):
            with suppress(GalleryError):
                self.snapshot(name)

    def close(self) -> None:
        """Let go of everything."""
        self.snapshots.clear()
        if self.opened is not None:
            self.opened.close()

    def _bytes(self) -> int:
        return sum(one.bytes for one in self.snapshots.values())
