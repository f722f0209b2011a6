"""The verbs of the service: the one that runs it."""

import time
from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--config", type=click.Path(path_type=Path), metavar="MODELS.YAML",
              help="Models with names, replicas and GPUs, limits, tokens, galleries.")  # fmt: skip
@click.option("--host", help="Address to listen at [127.0.0.1]; any other needs --tokens.")
@click.option("--port", type=click.IntRange(1, 65535), help="[8000]")
@click.option("--tokens", type=click.Path(path_type=Path), help="File of tokens, mode 0600.")
@click.option("--galleries", type=click.Path(path_type=Path), help="Folder of galleries.")
@click.option("--replicas", type=click.IntRange(1), default=1, show_default=True,
              help="Processes that hold each RUN.")  # fmt: skip
@click.option("--gpus", type=click.FloatRange(0), default=0.0, show_default=True,
              help="GPUs of a replica; a fraction shares one.")  # fmt: skip
def serve(runs: tuple[Path, ...], config: Path | None, host: str | None, port: int | None,
          tokens: Path | None, galleries: Path | None, replicas: int,
          gpus: float) -> None:  # fmt: skip
    """Serve trained RUNs, or the models of a file, over HTTP until Ctrl-C."""
    from rayreid.serve import start, stop
    from rayreid.serve.settings import load_service, service_of
    from rayreid.session import session

    chosen = {"host": host, "port": port, "tokens": tokens, "galleries": galleries}
    given = {name: value for name, value in chosen.items() if value is not None}
    if bool(runs) == bool(config):
        raise ValueError("say what to serve: RUN folders, or --config MODELS.YAML, not both")
    if config:
        settings = load_service(config, **given)
    else:
        settings = service_of(runs, **given, replicas=replicas, gpus=gpus)
    with session():
        url = start(settings)
        click.echo(
            f"serving {', '.join(m.name for m in settings.models)} at {url}; Ctrl-C stops it"
        )
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            click.echo("stopping")
        finally:
            stop()
