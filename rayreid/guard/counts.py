"""What the door counts, in the process that accepts connections, as Prometheus reads it.

The application's counts are in another process, which never sees what the door refuses; so the door
adds these to an answer of ``/metrics`` on its way out.
"""

from collections import Counter

REFUSED = {
    "connections": 503,  # there were too many
    "requests": 503,  # too many were at work
    "held_bytes": 503,  # bodies held too much
    "strangers_bytes": 503,  # those of callers that are not known did
    "lost": 503,  # a replica died under it
    "body_bytes": 413,
    "body_seconds": 408,
    "headers": 431,
    "header_seconds": 408,
    "not_http": 400,
}
"""Why the door answers a request itself; with ``serve``, and any status, what Serve refuses."""
CLOSED = ("evicted", "untaken")
"""Why it closes a connection: to make room, or because nobody took the answer."""
GAUGES = {
    "connections": "Connections that are open.",
    "requests": "Requests that the service works on.",
    "held_bytes": "Bytes of bodies that are held.",
}
"""What may be told of the present."""


class Counts:
    """Refusals and closed connections of one door since its process began."""

    def __init__(self) -> None:
        # From nought on: of a series that begins with 1 Prometheus does not see the first.
        self.refused = Counter(dict.fromkeys(REFUSED.items(), 0))
        self.closed = Counter(dict.fromkeys(CLOSED, 0))

    def refuse(self, reason: str, status: int) -> None:
        """Count a request that the door answers."""
        self.refused[reason, status] += 1

    def close(self, reason: str) -> None:
        """Count a connection that is closed."""
        self.closed[reason] += 1

    def text(self, **gauges: int) -> bytes:
        """Return them, and what there is now, in Prometheus' text format."""
        lines = _head("refused_total", "Requests that the door answered itself.", "counter")
        for (reason, status), count in sorted(self.refused.items()):
            lines.append(
                f'rayreid_door_refused_total{{reason="{reason}",status="{status}"}} {count}'
            )
        lines += _head("closed_total", "Connections that the door closed.", "counter")
        for reason, count in sorted(self.closed.items()):
            lines.append(f'rayreid_door_closed_total{{reason="{reason}"}} {count}')
        for name, value in gauges.items():
            lines += [*_head(name, GAUGES[name], "gauge"), f"rayreid_door_{name} {value}"]
        return "".join(f"{line}\n" for line in lines).encode()


def _head(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP rayreid_door_{name} {text}", f"# TYPE rayreid_door_{name} {kind}"]
