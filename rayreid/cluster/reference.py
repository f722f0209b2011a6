"""Secrets by reference: a job names what it needs, and the cluster has it."""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from rayreid.cluster.arrival import FORMAT

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_OPTIONS = {"access_key", "secret_key", "session_token", "password"}


@dataclass(frozen=True)
class Reference:
    """A variable of a job whose value is on the cluster: in the nodes' environment or a file."""

    name: str
    file: str | None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Return the reference in ``NAME`` or ``NAME=@FILE``.

        Raises `ValueError` for anything else; above all for a value, which it does not repeat.
        """
        name, equals, file = text.partition("=")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a variable; write {FORMAT}")
        if equals and not file.startswith("@"):
            raise ValueError(
                f"{name} was given with a value, which Ray would keep and show; write {FORMAT}"
            )
        if equals and not file[1:].startswith("/"):
            raise ValueError(f"{name} needs the absolute path of a file there; write {FORMAT}")
        return cls(name, file[1:] if equals else None)

    def __str__(self) -> str:
        return f"{self.name}=@{self.file}" if self.file else self.name


def refuse_secrets(arguments: "tuple[str, ...] | list[str]") -> None:
    """Raise `ValueError` where an argument carries a password: Ray keeps and shows a job's command.

    Of an address with a password in it, whatever its scheme, and of Arrow's options for keys.
    """
    for argument in arguments:
        for word in re.findall(r"[A-Za-z][A-Za-z0-9+.-]*://\S+", argument):
            parts = urlsplit(word)
            options = {name for name, _ in parse_qsl(parts.query)}
            if parts.password or options & _SECRET_OPTIONS:
                host = parts.netloc.rpartition("@")[2]
                raise ValueError(
                    f"the address {parts.scheme}://{host}{parts.path} was given with a password, "
                    "which Ray would keep and show; give the password by --env, e.g. "
                    "--env PGPASSWORD=@/run/secrets/password"
                )
