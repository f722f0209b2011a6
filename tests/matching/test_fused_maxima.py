"""What needs neither a GPU nor triton; what needs triton runs in processes of its own.

Triton reads its variables when it is imported, and this process may have imported it already.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rayreid.matching.fused_maxima import Tiling, _padded, available, tiling_of
from rayreid.matching.maxima import scattered

HERE = Path(__file__).parent


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("way", ["interpreted", "compiled"])
def test_kernels_without_a_gpu(way: str, tmp_path: Path) -> None:
    settings = {
        "TRITON_INTERPRET": str(int(way == "interpreted")),
        "TRITON_CACHE_DIR": str(tmp_path),
        "TRITON_DEFAULT_FP_FUSION": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    # Without the checks of shapes, which would be around the kernels as well.
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider"),
        str(HERE / f"{way}_maxima.py"),
    ]
    answer = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | settings
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert " passed" in answer.stdout
    assert "skipped" not in answer.stdout


def test_importing_needs_no_triton() -> None:
    code = "import sys, rayreid.matching.fused_maxima; print('triton' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"


def test_a_processor_is_not_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for capability, able in (((6, 1), False), ((7, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        assert available() == able
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert not available()


@given(seed=st.integers(0, 10**6), b=st.integers(1, 4), c=st.integers(1, 4), n=st.integers(1, 5))
def test_gradient_by_the_winners_is_autograds(seed: int, b: int, c: int, n: int) -> None:
    maps = random(seed, b, c, n).double().requires_grad_()
    gradient = random(seed + 1, b, b, n)
    best, place = torch.einsum("pcs,gcr->pgsr", maps, maps).max(3)
    (wanted,) = torch.autograd.grad((best * gradient).sum(), maps)
    found = scattered(maps.detach().float(), place.short(), gradient)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), wanted, atol=1e-5, rtol=1e-5)


@given(
    c=st.integers(1, 600),
    n=st.integers(1, 400),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    shared=st.sampled_from([64, 96, 163, 227]).map(lambda kib: kib * 2**10),
)
def test_tilings_fit(c: int, n: int, dtype: torch.dtype, shared: int) -> None:
    tiling = tiling_of(c, n, dtype, shared)
    blocks = -(-n // tiling.block)
    assert blocks <= 7, "the kernel is unrolled over them"
    assert tiling.queries * tiling.block in (64, 128), "whole instructions of the matrix unit"
    assert tiling.queries * tiling.block == tiling.maps * tiling.block
    assert not tiling.held or tiling.channels >= c
    if dtype != torch.float32:
        assert tiling.shared_bytes(n) <= shared
    # What the kernel holds: queries, and slices of one side or of both.
    columns, rows = tiling.maps * tiling.block, tiling.queries * tiling.block
    held = rows * blocks * tiling.channels if tiling.held else 0
    sliced = tiling.stages * tiling.channels * (columns if tiling.held else rows + columns)
    assert tiling.shared_bytes(n) == 2 * (held + sliced) + 8 * 2**10


def test_tilings_of_common_maps() -> None:
    half = torch.float16
    assert tiling_of(128, 192, half) == Tiling(64, 1, 1, 128, held=True, warps=4, stages=2)
    assert tiling_of(512, 192, half) == Tiling(64, 2, 2, 64, held=False, warps=8, stages=3)
    # A T4.
    small = Tiling(64, 1, 1, 64, held=False, warps=4, stages=2)
    assert tiling_of(128, 192, half, 64 * 2**10) == small
    assert [tiling_of(128, n, half).block for n in (8, 32, 50, 96, 128, 384)] == [
        16, 32, 64, 32, 64, 64,
    ]  # fmt: skip


@given(seed=st.integers(0, 10**6), c=st.integers(1, 40), n=st.integers(1, 40))
def test_padding_repeats_positions_and_adds_empty_channels(seed: int, c: int, n: int) -> None:
    maps = random(seed, 3, c, n)
    padded = _padded(maps, 16, 32)
    assert padded.shape[1] % 32 == padded.shape[2] % 16 == 0
    assert torch.equal(padded[:, :c, :n], maps)
    assert torch.equal(padded[:, :c, n:], maps[:, :, -1:].expand(-1, -1, padded.shape[2] - n))
    assert not padded[:, c:].any()


def test_whole_maps_are_not_copied() -> None:
    slices = random(1, 3, 2, 32, 16)
    assert _padded(slices[:, 1], 16, 32).data_ptr() == slices[0, 1].data_ptr()
    turned = slices[:, 1].transpose(1, 2)
    assert torch.equal(_padded(turned, 32, 16), turned)
    assert _padded(turned, 32, 16).stride(2) == 1
