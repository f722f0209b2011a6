"""Callers whose token was accepted, as the door knows them: it holds more for them.

The door reads a body before the guard, in another process, looks at the token. So that clients
without one cannot fill what is held for everybody, those that the guard has not accepted yet share
a part of it. The guard tells the door with each answer; the door keeps hashes, and lets nobody in
by them.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

ACCEPTED = b"x-rayreid-accepted"
"""Header of an answer, from the guard to the door, which takes it off."""
YES, NO = b"yes", b"no"
MOST = 4096
"""Callers that are remembered; of more, who asked longest ago is forgotten."""


class Callers:
    """Hashes of what accepted callers sent as ``Authorization``."""

    def __init__(self, most: int = MOST):
        self.most = most
        self.known: OrderedDict[bytes, None] = OrderedDict()

    def is_known(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return whether the guard has accepted a caller with these headers."""
        return _hash(headers) in self.known

    def learn(self, headers: Iterable[tuple[bytes, bytes]], told: bytes) -> None:
        """Remember or forget a caller by what the guard told with its answer, if anything."""
        caller = _hash(headers)
        if told == YES:
            self.known[caller] = None
            self.known.move_to_end(caller)
            if len(self.known) > self.most:
                self.known.popitem(last=False)
        elif told == NO:
            self.known.pop(caller, None)


def _hash(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    given = b"\n".join(value for name, value in headers if name == b"authorization")
    return hashlib.sha256(given).digest()
