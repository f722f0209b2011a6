"""Secrets by reference: names and files pass, values do not, and are not repeated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayreid.cluster.reference import Reference, refuse_secrets


def test_names_and_files_are_references() -> None:
    assert Reference.parse("KEY") == Reference("KEY", None)
    assert str(Reference.parse("KEY=@/run/secrets/key")) == "KEY=@/run/secrets/key"


@given(st.text(min_size=6).filter(lambda value: not value.startswith("@")))
def test_a_value_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(ValueError, match="was given with a value") as told:
        Reference.parse(f"KEY={value}")
    assert value.strip() == "" or value not in str(told.value)


@pytest.mark.parametrize("text", ["", "9KEY", "KEY=@relative", "A B", "=@/file"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write NAME, for a variable"):
        Reference.parse(text)


@pytest.mark.parametrize(
    "argument",
    [
        "postgresql://someone:hush@db/optuna",
        "storage=postgresql+psycopg://someone:hush@db/optuna",
        "packed=s3://key:hush@bucket/set",
        "s3://bucket/x?secret_key=hush",
    ],
)
def test_a_password_in_a_command_is_refused_for_ray_shows_commands(argument: str) -> None:
    with pytest.raises(ValueError, match="given with a password, which Ray would keep") as told:
        refuse_secrets(["tune", argument])
    assert "hush" not in str(told.value)


def test_addresses_without_passwords_pass() -> None:
    refuse_secrets(["s3://b/x?endpoint_override=h:1&scheme=http", "postgresql://me@db/x", "a=b"])
