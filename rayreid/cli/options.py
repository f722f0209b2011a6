"""Options that several verbs share, and what they make."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

# torch takes seconds to import: what needs it is imported when it is used.
if TYPE_CHECKING:
    from rayreid.experiment import Experiment
    from rayreid.protocols import Round


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that make an experiment."""
    for option in (
        click.option("--source", "sources", multiple=True, metavar="LAYOUT=LOCATION",
                     help="A domain to learn from, e.g. synthetic=snow; repeatable."),
        click.option("--from", "file", metavar="FILE|ADDRESS",
                     help="Settings to start from (an experiment.yaml or best.yaml, also in a "
                     "store)."),
        click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE",
                     help="A setting, e.g. optimiser.lr=1e-3; repeatable."),
    ):  # fmt: skip
        command = option(command)
    return protocol_options(command)


def protocol_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a published protocol and the folders of its sets."""
    for option in (
        click.option("--protocol", metavar="ROUND",
                     help="A published round instead, e.g. P2:market1501 (rayreid protocols)."),
        click.option("--data", "places", multiple=True, metavar="LAYOUT=LOCATION",
                     help="Where a set of the protocol is; repeatable."),
    ):  # fmt: skip
        command = option(command)
    return command


def chosen_round(protocol: str | None, places: Iterable[str], part: str) -> "Round | None":
    """Return the ``sources`` or ``targets`` of a protocol's round at their places, if one is named.

    Raises `ValueError` for places without a protocol, and as `rayreid.protocols.round_of` does.
    """
    from rayreid.protocols import round_of

    at = {}
    for place in places:
        layout, equals, location = place.partition("=")
        if not equals or not location:
            raise ValueError(f"{place!r} is no place; write layout=location")
        at[layout] = location
    if protocol is None:
        if at:
            raise ValueError("--data says where the sets of a protocol are; add --protocol")
        return None
    return round_of(protocol, at, parts=[part])


def make_experiment(
    method: str,
    sources: Iterable[str],
    file: Path | str | None,
    assignments: Iterable[str],
    learnt: "Round | None" = None,
) -> "Experiment":
    """Return the experiment that the options describe."""
    from rayreid.experiment import compose, load_assignments
    from rayreid.settings import parse_assignment

    layers: list[dict[str, object]] = []
    if file:
        layers.append(load_assignments(file))
    layers.append(dict(map(parse_assignment, assignments)))
    sources = tuple(sources)
    if sources and learnt:
        raise ValueError("a protocol names its own sources; leave --source or --protocol away")
    if sources or learnt:
        layers.append({"sources": learnt.sources if learnt else sources})
    elif not any("sources" in layer for layer in layers):
        raise ValueError("no domain to learn from; add --source, e.g. --source synthetic=snow")
    return compose(method, *layers)


def counter(label: str) -> Callable[[int], None]:
    """Return a progress that counts up on a terminal, and is silent in a file."""
    done = 0

    def add(more: int) -> None:
        nonlocal done
        done += more
        if sys.stderr.isatty():
            click.echo(f"\r{label}: {done}", nl=False, err=True)

    return add


class Workers(click.ParamType[int | tuple[int, int]]):
    """A number of workers, or ``MIN-MAX``: as many as there is room for."""

    name = "workers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | tuple[int, int]:
        """Return the number, or the least and the most."""
        least, dash, most = str(value).partition("-")
        if not least.isdigit() or (dash and not most.isdigit()) or int(most or least) > 4096:
            self.fail(f"{value!r} is no number of workers; write e.g. 2, or 2-4", param, ctx)
        if not dash:
            return int(least)
        if not 1 <= int(least) < int(most):
            self.fail(f"{value!r} is no range; write the fewer first, from 1: 2-4", param, ctx)
        return int(least), int(most)
