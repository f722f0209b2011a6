"""What a study tells while it runs: a line an event of a trial."""

import time
from collections.abc import Callable, Mapping

Teller = Callable[[str], None]
"""What is told, in a line, how a study goes on."""


class Progress:
    """Tells, a line each, how trials go on and end, the best so far, and the time left."""

    def __init__(self, trials: int, settled: int, epochs: int, metric: str, tell: Teller):
        self.trials, self.epochs, self.metric, self.tell = trials, epochs, metric, tell
        self.settled, self.before = settled, settled
        self.began = time.monotonic()
        self.best: tuple[float, int] | None = None

    def starts(self, trial: int, values: Mapping[str, object], epoch: int, attempt: int) -> None:
        """Say what a trial tries, and from where it goes on."""
        tried = ", ".join(f"{path}={_short(value)}" for path, value in values.items())
        again = f" again (attempt {attempt}), after epoch {epoch}" if attempt > 1 else ""
        self.tell(f"trial {trial}/{self.trials} starts{again}: {tried}")

    def ended(self, trial: int, score: float) -> None:
        """Say that a trial learnt all its epochs."""
        self.known(trial, score)
        self._settle(f"trial {trial}/{self.trials} ended: {self._scored(score)}")

    def stopped(self, trial: int, epoch: int, score: float) -> None:
        """Say how far a trial came that was stopped."""
        self._settle(
            f"trial {trial}/{self.trials} stopped after {epoch}/{self.epochs} epochs: "
            f"{self._scored(score)}"
        )

    def crashed(self, trial: int, why: str) -> None:
        """Say that a trial came to nothing, and why."""
        self._settle(f"trial {trial}/{self.trials} crashed: {why}")

    def died(self, trial: int, epoch: int) -> None:
        """Say that a trial's process died and the trial is tried again."""
        self.tell(
            f"trial {trial}/{self.trials} lost its process after {epoch}/{self.epochs} epochs; "
            "it goes on from there"
        )

    def known(self, trial: int, score: float) -> None:
        """Take note of a trial that ended."""
        self.best = max(self.best or (score, trial), (score, trial), key=lambda pair: pair[0])

    def _scored(self, score: float) -> str:
        return f"{'lowest ' * (self.metric == 'worst_mAP')}held-out mAP {score:.3f}"

    def _settle(self, line: str) -> None:
        self.settled += 1
        if self.best:
            line += f"; best so far {self.best[0]:.3f} (trial {self.best[1]})"
        self.tell(line + self._left())

    def _left(self) -> str:
        """Return how long it may take, were the trials to come like those of this session."""
        to_come = self.trials - self.settled
        if not to_come:
            return ""
        each = (time.monotonic() - self.began) / (self.settled - self.before)
        return f"; about {_duration(each * to_come)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
