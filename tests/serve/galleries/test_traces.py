"""Finding what is left of something erased."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayreid.serve.galleries import traces
from rayreid.serve.galleries.traces import WINDOW, Sought


def embedding(seed: int, numbers: int = 64) -> bytes:
    return np.random.default_rng(seed).standard_normal(numbers).astype("<f4").tobytes()


ERASED = [embedding(seed) for seed in range(5)]


@given(
    one=st.integers(0, 4), piece=st.integers(0, 3), before=st.integers(0, 200), after=st.integers()
)
def test_a_piece_is_found_wherever_it_lies(
    tmp_path_factory: pytest.TempPathFactory, one: int, piece: int, before: int, after: int
) -> None:
    noise = np.random.default_rng(before)
    left = ERASED[one][piece * WINDOW : (piece + 1) * WINDOW]
    path = tmp_path_factory.mktemp("t") / "file"
    path.write_bytes(noise.bytes(before) + left + noise.bytes(abs(after) % 99))
    sought = Sought(ERASED, ["anna karenina"])
    # Less than seven bytes behind the piece's first words cannot hide it: the piece is longer.
    trace, size = sought.found_in(path)
    assert trace is not None
    assert (trace.path, trace.at) == (path, before)
    assert size == path.stat().st_size


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(embedding(99, 10_000) + bytes(10_000) + ERASED[0][: WINDOW - 1])
    assert Sought(ERASED, ["anna karenina"]).found_in(path) == (None, path.stat().st_size)
    path.write_bytes(b"")
    assert Sought(ERASED, ["anna karenina"]).found_in(path) == (None, 0)


@pytest.mark.parametrize("shift", [-700, -64, -33, -1, 0, 5])
def test_what_spans_two_reads_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: int
) -> None:
    monkeypatch.setattr(traces, "_CHUNK", 4096)
    path = tmp_path / "file"
    for left in ("Ångström, Anna".encode(), ERASED[3][:WINDOW]):
        path.write_bytes(bytes(2 * 4096 + shift) + left + bytes(4096))
        trace, _ = Sought(ERASED, ["Ångström, Anna"]).found_in(path)
        assert trace is not None
        assert trace.at == 2 * 4096 + shift


def test_zeros_of_an_embedding_are_no_trace(tmp_path: Path) -> None:
    sparse = np.zeros(128, "<f4")
    sparse[::40] = 1.5
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    assert Sought([sparse.tobytes()], []).found_in(path)[0] is None


def test_a_sparse_embedding_is_still_found(tmp_path: Path) -> None:
    sparse = np.maximum(np.random.default_rng(0).standard_normal(512), 0).astype("<f4").tobytes()
    path = tmp_path / "file"
    path.write_bytes(bytes(777) + sparse[:256])
    trace, _ = Sought([sparse], []).found_in(path)
    assert trace is not None
