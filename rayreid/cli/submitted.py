"""A command line that is to run elsewhere: checked here, and completed for there."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from rayreid.cluster.named import Cluster
    from rayreid.cluster.submission import Submission

VERBS = ("train", "tune", "evaluate", "calibrate", "benchmark")
"""Verbs that end, and leave results: those that a job may run."""


def prepare(
    root: click.Group,
    arguments: Sequence[str],
    cluster: "Cluster",
    name: str | None,
    references: Iterable[str],
) -> "tuple[Submission, list[str]]":
    """Return what to submit for a command, and the files that it names.

    What the command does not say, the cluster's settings do: where results go, and by which name,
    so that they are found again.

    Raises a mistake in the command as the command itself would, and `ValueError` for one that no
    job runs, or whose results would be lost.
    """
    from rayreid.cluster.named import shared_results
    from rayreid.cluster.reference import Reference
    from rayreid.cluster.submission import Submission, usual_name
    from rayreid.data.storage import below, is_remote, last_part
    from rayreid.settings import unknown

    if not arguments or arguments[0] not in VERBS:
        raise unknown("command of a job", arguments[0] if arguments else "", VERBS)
    context = _parsed(root, arguments)
    said = context.params
    words = list(arguments)
    kind = list(dict.fromkeys([arguments[0], context.info_name or ""]))
    # A cluster's own variables, unless the command line says otherwise of the same ones.
    merged = {
        reference.name: reference for reference in map(Reference.parse, (*cluster.env, *references))
    }
    results = None
    if "results" in said:
        kind += [str(said.get("method", ""))]
        ours = name or said.get("name") or usual_name(kind, arguments)
        place = str(said["results"]) if _given(context, "results") else cluster.results
        if place is None:
            raise ValueError(
                "where do the results go? A job's own folder is removed; add --results with "
                "s3://bucket/prefix or a folder that all nodes share, or give the cluster results"
            )
        place = shared_results(place)
        if is_remote(place) and _takes_folders_alone(context, "results"):
            raise ValueError(
                f"{arguments[0]} keeps its results in folders alone; add --results with one that "
                "all nodes share"
            )
        if not _given(context, "results"):
            words += ["--results", place]
        if not said.get("name"):
            words += ["--name", ours]
        results = below(place, said.get("name") or ours)
    else:
        run = str(said.get("run", ""))
        kind += [last_part(run)] if run else []
        ours = name or usual_name(kind, arguments)
        if run and "/" not in run and cluster.results:
            # A bare name is of a run where the cluster's are.
            results = below(cluster.results, run)
            words[words.index(run)] = results
        elif run or _given(context, "to"):
            place = run or str(said["to"])
            results = place if is_remote(place) or Path(place).is_absolute() else None
    files = list(_files_named(said.values()))
    return Submission(ours, tuple(words), results, tuple(merged.values())), files


def _parsed(root: click.Group, arguments: Sequence[str]) -> click.Context:
    """Return the context of the command that the arguments call."""
    context = click.Context(root, info_name="rayreid")
    command: click.Command = root
    rest = list(arguments)
    while isinstance(command, click.Group):
        word, found, rest = command.resolve_command(context, rest)
        if found is None or (isinstance(found, click.Group) and not rest):
            raise click.UsageError(f"{word} needs a command of its own; see rayreid {word} --help")
        command = found
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=word, parent=context)
    return command.make_context(word, rest, parent=context)


def _given(context: click.Context, parameter: str) -> bool:
    return context.get_parameter_source(parameter) == ParameterSource.COMMANDLINE


def _takes_folders_alone(context: click.Context, parameter: str) -> bool:
    types = {option.name: option.type for option in context.command.params}
    return isinstance(types[parameter], click.Path)


def _files_named(values: Iterable[Any]) -> Iterator[str]:
    """Yield the files here that a command names by relative paths.

    Raises `ValueError` for one outside the working tree.
    """
    here = Path.cwd()
    for value in values:
        if isinstance(value, tuple | list):
            yield from _files_named(value)
            continue
        text = str(value).partition("=")[2] or str(value) if isinstance(value, str | Path) else ""
        path = Path(text)
        if not text or path.is_absolute() or not path.is_file():
            continue
        whole = path.resolve()
        if not whole.is_relative_to(here.resolve()):
            raise ValueError(
                f"{text} lies outside {here}, and only this working tree is taken along; copy it "
                "here"
            )
        yield whole.relative_to(here.resolve()).as_posix()
