"""The verbs for who may use the service, and for who did."""

import json
from pathlib import Path

import click

FILE = click.option(
    "--file", "path", type=click.Path(path_type=Path), default=Path("tokens.json"),
    show_default=True, help="The tokens file.",
)  # fmt: skip


@click.group()
def token() -> None:
    """Make, list and revoke the tokens of a service."""


@token.command("new")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True,
              type=click.Choice(["match", "enrol", "erase"]),
              help="What it may do; repeatable.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(0, 1e6, min_open=True), default=20.0,
              show_default=True, help="Requests a second.")  # fmt: skip
@FILE
def new_token(name: str, scopes: tuple[str, ...], rate: float, path: Path) -> None:
    """Make a token called NAME, and print it: it is kept nowhere, and shown this once."""
    from rayreid.guard.tokens import Scope, add_token

    secret = add_token(path, name, [Scope(scope) for scope in dict.fromkeys(scopes)], rate)
    click.echo(
        f"{path} has a token {name!r} for {', '.join(dict.fromkeys(scopes))}; it is", err=True
    )
    click.echo(secret)


@token.command("list")
@FILE
def list_tokens(path: Path) -> None:
    """List the tokens of a file: never the tokens themselves, of which it has hashes."""
    from rayreid.guard.tokens import read_tokens

    for held in read_tokens(path):
        scopes = ", ".join(held.scopes)
        click.echo(f"{held.name:24} {scopes:20} {held.rate:8g}/s  {held.made}")


@token.command("revoke")
@click.argument("name")
@FILE
def revoke(name: str, path: Path) -> None:
    """Remove the token called NAME; a running service refuses it within a second."""
    from rayreid.guard.tokens import revoke_token

    revoke_token(path, name)
    click.echo(f"{path} has no token {name!r} any more")


@click.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--about", required=True, metavar="NAME",
              help="A gallery, an identity or a sample.")  # fmt: skip
def audit(log: Path, about: str) -> None:
    """Print the entries of an audit LOG about a name, which the log holds as a keyed hash."""
    from rayreid.guard.audit import Audit

    if not log.exists():
        raise FileNotFoundError(f"there is no audit log {log}; check the path")
    for entry in Audit(log).about(about):
        click.echo(json.dumps(entry))
