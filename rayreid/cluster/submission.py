"""What is submitted: a verb with its arguments, as a job of Ray's."""

import hashlib
import importlib.metadata
import json
import re
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayreid.cluster.arrival import REFERENCES, VERSION
from rayreid.cluster.job import NAME, RESULTS, SUBMITTED_BY
from rayreid.cluster.job_client import JobClient
from rayreid.cluster.package import ARRIVAL, Package
from rayreid.cluster.reference import Reference, refuse_secrets
from rayreid.data.storage import without_options

GOES_ON = ("--resume",)
"""Arguments that continue what the same command without them began."""


@dataclass(frozen=True)
class Submission:
    """A command for a cluster: its words, the name of what it makes, and where that goes."""

    name: str
    arguments: tuple[str, ...]
    results: str | None
    references: tuple[Reference, ...] = ()

    def __post_init__(self) -> None:
        """Raise `ValueError` for a name that is none, and for passwords in the arguments."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name):
            raise ValueError(
                f"{self.name!r} is no name of a job; write up to 100 letters, digits, '.', '_', '-'"
            )
        refuse_secrets(self.arguments)

    @property
    def public_results(self) -> str:
        """Return where results go, for messages."""
        return without_options(self.results or "")

    def entrypoint(self, python: str) -> str:
        """Return the command line of the job; a shell runs it, so each word is quoted."""
        return shlex.join([python, ARRIVAL, *self.arguments])

    def environment(self, commit: str | None) -> dict[str, str]:
        """Return the variables that Ray is told, and shows: no secret, only where it is."""
        told = {VERSION: importlib.metadata.version("rayreid")}
        if commit:
            told["RAYREID_COMMIT"] = commit
        if self.references:
            told[REFERENCES] = json.dumps([str(reference) for reference in self.references])
        return told


def usual_name(words: Sequence[str], arguments: Sequence[str]) -> str:
    """Return the name of a command that is given none: the same command has the same name."""
    said = json.dumps([word for word in arguments if word not in GOES_ON])
    plain = [re.sub(r"[^A-Za-z0-9]+", "-", word).strip("-") for word in words]
    return "-".join([*filter(None, plain), hashlib.sha256(said.encode()).hexdigest()[:8]])[-100:]


def submit(client: JobClient, submission: Submission, package: Package) -> str:
    """Start the job, and return its name on the cluster.

    That is the submission's; from the second time on, with the number of the attempt.

    Raises `ValueError` where the same is running already: two would write one folder.
    """
    earlier = [j for j in client.jobs().values() if j.metadata.get(NAME) == submission.name]
    for job in earlier:
        if job.goes_on:
            raise ValueError(
                f"{job.name} is {job.state} on {client.name} already; follow it "
                f"with {client.again('logs', job.name, '--follow')}, stop it, or give "
                "another --name"
            )
    attempt = len(earlier) + 1
    job_name = submission.name if attempt == 1 else f"{submission.name}-{attempt}"
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "tree.zip"
        package.write(archive)
        environment = {
            "working_dir": str(archive),
            "env_vars": submission.environment(package.commit),
        }
        if submission.references:
            hook = f"{Path(ARRIVAL).stem}.give_references"
            environment["worker_process_setup_hook"] = hook
        with client.told(f"take {job_name}"):
            client.submit_job(
                entrypoint=submission.entrypoint(client.cluster.python),
                submission_id=job_name,
                runtime_env=environment,
                metadata={
                    NAME: submission.name,
                    RESULTS: submission.results or "",
                    SUBMITTED_BY: importlib.metadata.version("rayreid"),
                },
            )
    return job_name
