"""Who works on a run or study in a store: a sign of life there, so that two do not work on one.

A store has no locks. What is kept there is a small file that changes as long as its writer lives:
one that still changes is of another process; one that does not is of a process that died. No clock
is compared. Two that begin within the same second are not told apart at once, but warned.
"""

import json
import logging
import os
import socket
import threading
import time
from contextlib import suppress
from uuid import uuid4

from rayreid.data.storage import Storage

log = logging.getLogger(__name__)

FILE = ".driver"
"""Where the sign of life is, in the run's or study's folder."""
BEAT = 2.0
"""Seconds between two changes of it."""
PATIENCE = 3 * BEAT
"""Seconds without a change after which its writer is believed dead."""


class Claim:
    """Says of a run or study in a store that this process works on it."""

    def __init__(self, storage: Storage):
        self.storage = storage
        self.id, self.beats, self.warned = uuid4().hex, 0, False
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._keep, name="claim", daemon=True)

    def take(self) -> None:
        """Claim it; waits `PATIENCE` where somebody has claimed it and may have died.

        Raises `ValueError` where another process works on it, `OSError` for a store that cannot be
        written.
        """
        first = now = self._read()
        if first is not None:
            log.warning(
                "%s was begun by %s; waiting %.0f s to see whether it has ended",
                self.storage.public,
                _who(first),
                PATIENCE,
            )
        deadline = time.monotonic() + PATIENCE
        while now is not None and time.monotonic() < deadline:
            time.sleep(BEAT / 4)
            now = self._read()
            if now is not None and now != first:
                raise ValueError(
                    f"{self.storage.public} is being worked on by {_who(now)}; wait for it, stop "
                    "it, or give this one another --name"
                )
        self._beat()
        self.thread.start()

    def release(self) -> None:
        """Let others have it, as far as the store answers."""
        self.over.set()
        self.thread.join()
        with suppress(OSError):
            self.storage.remove(FILE)

    def _keep(self) -> None:
        while not self.over.wait(BEAT):
            with suppress(OSError):  # whoever sends the results tells that the store is away
                now = self._read()
                if now is not None and self.id.encode() not in now and not self.warned:
                    self.warned = True
                    log.warning(
                        "%s works on %s too; stop one of the two", _who(now), self.storage.public
                    )
                self._beat()

    def _beat(self) -> None:
        self.beats += 1
        who = f"process {os.getpid()} of {socket.gethostname()}"
        sign = {"who": who, "id": self.id, "beat": self.beats}
        self.storage.write(FILE, json.dumps(sign).encode())

    def _read(self) -> bytes | None:
        try:
            return bytes(self.storage.read(FILE, 4096))
        except FileNotFoundError:
            return None
        except ValueError:  # whatever it is, it is none of ours
            return b""


def _who(sign: bytes) -> str:
    try:
        return str(json.loads(sign)["who"])
    except (ValueError, KeyError, TypeError):
        return "another process"
