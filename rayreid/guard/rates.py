"""How often somebody may ask: a bucket that fills with time, and from which requests take."""

import time
from collections.abc import Callable


class Rates:
    """A token bucket for each name.

    With several replicas each has its share of the rate: all of them together never let more
    through, and where requests are spread unevenly somebody waits although another has room.
    """

    def __init__(self, replicas: int = 1, clock: Callable[[], float] = time.monotonic):
        self.replicas, self.clock = replicas, clock
        self.buckets: dict[str, tuple[float, float]] = {}

    def wait(self, name: str, rate: float) -> float:
        """Take from the bucket of a name; return 0, or the seconds until there is something in it.

        ``rate`` is in requests a second over all replicas, and the bucket holds those of a second,
        or one.
        """
        rate, now = rate / self.replicas, self.clock()
        size = max(1.0, rate)
        content, then = self.buckets.get(name, (size, now))
        content = min(size, content + (now - then) * rate)
        if content < 1:
            self.buckets[name] = content, now
            return (1 - content) / rate
        self.buckets[name] = content - 1, now
        return 0.0
