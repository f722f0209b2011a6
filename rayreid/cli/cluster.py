"""The verbs that use a cluster from a laptop."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rayreid.cli.submitted import prepare

# Ray takes a second to import: each verb imports what it needs, so --help is instant.
if TYPE_CHECKING:
    from rayreid.cluster.job_client import JobClient


def on_a_cluster(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which cluster, and that it may be one without authentication."""
    for option in (
        click.option("--cluster", "named", metavar="NAME|ADDRESS",
                     help="A cluster of ~/.config/rayreid/clusters.yaml, or http(s)://HOST:PORT."),
        click.option("--without-authentication", "open_to_all", is_flag=True,
                     help="Use a cluster that runs code for whoever reaches it."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command(context_settings={"allow_interspersed_args": False})
@on_a_cluster
@click.option("--name", help="Name of the job, and of its results; by default of the command.")
@click.option("--env", "references", multiple=True, metavar="NAME[=@FILE]",
              help="A variable that nodes have, or a file there holds; repeatable.")  # fmt: skip
@click.option("--detach", is_flag=True, help="Do not follow the job's log.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
@click.pass_context
def submit(context: click.Context, named: str | None, open_to_all: bool, name: str | None,
           references: tuple[str, ...], detach: bool,
           command: tuple[str, ...]) -> None:  # fmt: skip
    """Run COMMAND (train, tune, evaluate, benchmark ...) on a cluster, with this working tree.

    Ctrl-C ends following, not the job. The same command again goes on where it stopped.
    """
    from rayreid.cluster.named import choose, load_clusters
    from rayreid.cluster.package import pack
    from rayreid.cluster.submission import submit as start

    assert context.parent is not None
    root = context.parent.command
    assert isinstance(root, click.Group)
    chosen, cluster = choose(named, load_clusters())
    submission, files = prepare(root, command, cluster, name, references)
    package = pack(Path.cwd(), files)
    client = _client(chosen, cluster, open_to_all)
    code = "rayreid's own code" if package.carries_rayreid else "the cluster's rayreid"
    _say(f"taking along {len(package.files)} files, {package.bytes / 2**20:.1f} MiB; runs {code}")
    for left in package.left_out:
        _say(f"left out: {left}")
    job = start(client, submission, package)
    there = f"; results go to {submission.public_results}" if submission.results else ""
    _say(f"submitted {job} to {chosen}{there}")
    if detach:
        _say(f"follow it with {client.again('logs', job, '--follow')}")
    else:
        _follow(client, job)


@click.command()
@on_a_cluster
def jobs(named: str | None, open_to_all: bool) -> None:
    """List the jobs of a cluster, the latest first."""
    from rayreid.cluster.following import progress
    from rayreid.cluster.job import SUBMITTED_BY
    from rayreid.data.storage import without_options

    client = connected(named, open_to_all)
    found = client.jobs()
    others = 0
    for job in reversed(found.values()):
        if SUBMITTED_BY not in job.metadata:
            others += 1
            continue
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.began or 0))
        click.echo(f"{began}  {progress(job)}  {without_options(job.results or '-')}")
    if others:
        _say(f"and {others} that rayreid did not submit")
    elif not found:
        _say(f"no jobs on {client.name}")


@click.command()
@click.argument("job")
@on_a_cluster
@click.option("--follow", is_flag=True, help="Go on until the job ends.")
def logs(job: str, follow: bool, named: str | None, open_to_all: bool) -> None:
    """Print what JOB has printed; JOB is a name, or the beginning of one."""
    client = connected(named, open_to_all)
    found = client.find(job)
    if follow:
        _follow(client, found.name)
    else:
        click.echo(client.get_job_logs(found.name), nl=False)


@click.command()
@click.argument("job")
@on_a_cluster
def stop(job: str, named: str | None, open_to_all: bool) -> None:
    """Stop JOB; the same command submitted again goes on where it stopped."""
    client = connected(named, open_to_all)
    found = client.find(job)
    if not found.goes_on:
        _say(f"{found.name} has {found.state} already")
        return
    with client.told(f"stop {found.name}"):
        client.stop_job(found.name)
    while (found := client.job(found.name)).goes_on:
        time.sleep(0.5)
    _say(f"{found.name} {found.state}")


@click.command()
@click.argument("job")
@on_a_cluster
@click.option("--to", type=click.Path(path_type=Path), default=Path("results"),
              show_default=True, help="Folder for the results.")  # fmt: skip
@click.option("--everything", is_flag=True, help="Also what only serves to go on with it.")
def fetch(job: str, to: Path, everything: bool, named: str | None, open_to_all: bool) -> None:
    """Copy the results of JOB out of the store that they went to."""
    from rayreid.cluster.fetching import fetch as copy

    client = connected(named, open_to_all)
    found = client.find(job)
    line, had = _Line(), 0

    def tell(size: int) -> None:
        nonlocal had
        had += size
        line.show(f"{had / 2**20:.1f} MiB")

    try:
        folder = copy(found, to, tell, everything=everything)
    finally:
        line.clear()
    if found.goes_on:
        _say(f"{found.name} goes on; this is what it has left so far")
    click.echo(f"{had / 2**20:.1f} MiB in {folder}")


@click.command()
def clusters() -> None:
    """List the clusters of ~/.config/rayreid/clusters.yaml, and whether they answer."""
    from rayreid.cluster.job_client import JobClient
    from rayreid.cluster.named import CLUSTERS_FILE, load_clusters

    found = load_clusters()
    if not found.clusters:
        _say(f"none is named; write them into {CLUSTERS_FILE}")
    for name, cluster in found.clusters.items():
        mark = " (default)" if name == found.default else ""
        try:
            answer = f"answers, Ray {JobClient(name, cluster).ray}"
        except (OSError, ValueError) as error:
            answer = str(error)
        click.echo(f"{name}{mark}  {cluster.address}  {answer}")


def connected(named: str | None, open_to_all: bool) -> "JobClient":
    """Return the jobs of the cluster that is meant; its mistakes are `JobClient`'s."""
    from rayreid.cluster.named import choose, load_clusters

    return _client(*choose(named, load_clusters()), open_to_all)


def _client(name: str, cluster: Any, open_to_all: bool) -> "JobClient":
    from rayreid.cluster.job_client import JobClient

    client = JobClient(name, cluster, without_authentication=open_to_all)
    if client.unencrypted:
        _say(
            f"the token travels to {cluster.address} unencrypted; reach it by https, or through an "
            "ssh tunnel"
        )
    return client


def _follow(client: "JobClient", job: str) -> None:
    """Print a job's log as it grows; exit with 1 where it does not succeed, 130 on Ctrl-C."""
    from rayreid.cluster.following import follow

    line = _Line()

    def tell(text: str) -> None:
        line.clear()
        click.echo(text, nl=False)

    try:
        ended = follow(client, job, tell, line.show)
    except KeyboardInterrupt:
        line.clear()
        with suppress(KeyboardInterrupt):
            _say(
                f"no longer following; {job} goes on: {client.again('logs', job, '--follow')} "
                f"follows it again, {client.again('stop', job)} stops it"
            )
        sys.exit(130)
    finally:
        line.clear()
    if ended.state != "succeeded":
        # What Ray says of an exit code repeats the log, which was just shown.
        why = f"exit code {ended.exit_code}" if ended.exit_code else ended.message
        _say(f"{job} {ended.state}: {' '.join(why.split())}")
        sys.exit(1)
    _say(f"{job} succeeded; {client.again('fetch', job)} brings its results")


class _Line:
    """A line at the bottom of a terminal; in a file, one for each state of a job."""

    def __init__(self) -> None:
        self.shown = False
        self.state: list[str] = []

    def show(self, text: str) -> None:
        """Show a text in place of the one before."""
        if sys.stderr.isatty():
            click.echo(f"\r\033[K{text}", nl=False, err=True)
            self.shown = True
        elif (state := text.split(",")[0].split()[:2]) != self.state:
            if state[1:] in (["pending"], ["running"], ["answer"]):
                _say(text.split(",")[0])
            self.state = state

    def clear(self) -> None:
        """Take it away, so that something else can be printed."""
        if self.shown:
            click.echo("\r\033[K", nl=False, err=True)
            self.shown = False


def _say(text: str) -> None:
    click.echo(text, err=True)
