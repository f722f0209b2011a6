"""Refusals: an HTTP status and one sentence, whoever refuses."""

from dataclasses import dataclass

RETRY_AFTER_S = 1
"""When a client that was refused for lack of room may try again."""


@dataclass(frozen=True)
class Refused:
    """A refusal as a value, which travels between processes as what it is."""

    status: int
    sentence: str
    retry_after: int | None = None

    def error(self) -> "RefusalError":
        """Return it as what is raised."""
        return RefusalError(self.status, self.sentence, self.retry_after)


class RefusalError(Exception):
    """Why a request is not answered: an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str, retry_after: int | None = None):
        super().__init__(status, sentence, retry_after)
        self.status, self.sentence, self.retry_after = status, sentence, retry_after

    def as_value(self) -> Refused:
        """Return it as what travels between processes."""
        return Refused(self.status, self.sentence, self.retry_after)
