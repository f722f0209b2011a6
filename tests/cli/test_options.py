"""Options that several verbs share."""

import click
import pytest

from rayreid.cli.options import Workers


@pytest.mark.parametrize(("text", "workers"), [("0", 0), ("2", 2), ("2-4", (2, 4))])
def test_workers_are_a_number_or_a_range(text: str, workers: object) -> None:
    assert Workers().convert(text, None, None) == workers


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("many", r"'many' is no number of workers; write e.g. 2, or 2-4"),
        ("-2", r"no number"),
        ("2-", r"no number"),
        ("2-99999", r"no number"),
        ("4-2", r"write the fewer first"),
        ("0-2", r"from 1"),
    ],
)
def test_what_is_no_number_of_workers_is_refused(text: str, said: str) -> None:
    with pytest.raises(click.BadParameter, match=said):
        Workers().convert(text, None, None)
