from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayreid.protocols import leave_one_domain_out, refuse_target

SOURCES = st.lists(
    st.integers(0, 50).map(lambda seed: f"synthetic=law-{seed}"), min_size=2, unique=True
).map(tuple)


@given(SOURCES)
def test_every_source_is_held_out_once_and_never_learnt_then(sources: tuple[str, ...]) -> None:
    folds = leave_one_domain_out(sources)
    assert [fold.held_out for fold in folds] == list(sources)
    for fold in folds:
        assert set(fold.sources) == set(sources) - {fold.held_out}


def test_one_source_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="needs at least two sources, found 1"):
        leave_one_domain_out(("synthetic=snow",))


def test_a_target_among_the_sources_is_refused_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = ("synthetic=snow", "market1501=here")
    refuse_target(sources, None)
    refuse_target(sources, "synthetic=subway")
    here = f"{tmp_path}/there/../here"
    for target in ("synthetic=snow", f"market1501={here}", f"market1501:all={here}"):
        with pytest.raises(ValueError, match="is the target and a source"):
            refuse_target(sources, target)
