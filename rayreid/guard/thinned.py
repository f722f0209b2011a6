"""Refusals that cost their caller nothing, in few lines: they must not push out what was done.

Whoever reaches the service can be refused without end. Of such refusals the log has the first of a
minute each, and when the minute is over one line with the number of the rest.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping

MINUTE_S = 60.0
EACH, ALL = 5, 30
"""Lines a minute of one caller with one status, and of all."""
COUNTED = 30
"""Callers that are counted apart in a minute; further ones are counted together."""

Caller = tuple[str, str | None, int]
"""An address, a token's name, and the status it was given."""


class Thinned:
    """What was refused in this minute."""

    def __init__(self, clock: Callable[[], float] = time.time):
        self.clock, self.since = clock, clock()
        self.written: Counter[Caller] = Counter()
        self.left_out: Counter[Caller] = Counter()

    def lets(self, caller: Caller) -> bool:
        """Count a refusal, and return whether it has a line of its own."""
        if self.written[caller] < EACH and self.written.total() < ALL:
            self.written[caller] += 1
            return True
        if caller not in self.left_out and len(self.left_out) >= COUNTED:
            caller = ("others", None, caller[2])
        self.left_out[caller] += 1
        return False

    def tell(self, write: Callable[[Mapping[str, object]], None]) -> None:
        """Write what was left out in a minute that is over; what cannot be written stays."""
        now = self.clock()
        if now - self.since < MINUTE_S:
            return
        for caller, count in list(self.left_out.items()):
            client, token, status = caller
            write(
                {
                    "time": round(self.since, 3),
                    "until": round(now, 3),
                    "token": token,
                    "client": client,
                    "status": status,
                    "refused": count,
                }
            )
            del self.left_out[caller]
        self.written.clear()
        self.since = now
