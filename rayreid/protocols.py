"""Protocols: which domains teach, which judge, and what may not be looked at."""

from dataclasses import dataclass

from rayreid.data.sources import canonical, domain_name, same_place


@dataclass(frozen=True)
class Fold:
    """One round of leave-one-domain-out: learn on ``sources``, rank on ``held_out``."""

    sources: tuple[str, ...]
    held_out: str


def distinct(sources: tuple[str, ...]) -> tuple[str, ...]:
    """Return the sources in canonical form; `ValueError` where two are one or share a name."""
    canon = tuple(canonical(source) for source in sources)
    names = [domain_name(source) for source in canon]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two sources are called {name!r}: {', '.join(canon)}; name each domain once"
            )
    return canon


def leave_one_domain_out(sources: tuple[str, ...]) -> list[Fold]:
    """Return a fold for each source, held out in its turn: ranked on its own query / gallery.

    Nothing outside the sources is in any fold. Raises `ValueError` for fewer than two.
    """
    canon = distinct(sources)
    if len(canon) < 2:
        raise ValueError(
            f"leave-one-domain-out needs at least two sources, found {len(canon)}: "
            "with one, nothing is left to learn from"
        )
    return [Fold(tuple(s for s in canon if s != held_out), held_out) for held_out in canon]


def refuse_target(sources: tuple[str, ...], target: str | None) -> None:
    """Raise `ValueError` where the target is also a source."""
    if target is not None and any(same_place(target, source) for source in sources):
        raise ValueError(
            f"{target} is the target and a source; an unseen domain may not be learnt from or "
            "selected on: remove it from the sources"
        )
