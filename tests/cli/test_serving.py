"""The verb that serves, as far as it refuses: before anything is started for it."""

from pathlib import Path

import pytest
import ray
from click.testing import CliRunner

from rayreid.cli import cli


@pytest.mark.parametrize("kind", ["absent", "empty", "not a run"])
def test_a_run_that_cannot_be_served_is_refused_before_ray_starts(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    if kind != "absent":
        run.mkdir()
    if kind == "not a run":
        (run / "best").mkdir()
        (run / "best" / "card.json").write_text("{")
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))
    result = CliRunner().invoke(cli, ["serve", str(run)])
    assert isinstance(result.exception, (ValueError, FileNotFoundError))
    assert str(run) in str(result.exception)
    assert not result.output
