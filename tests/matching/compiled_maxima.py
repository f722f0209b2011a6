"""The kernels, compiled for a Hopper GPU that need not be there; started by `test_fused_maxima`.

The interpreter takes much that the compiler refuses.
"""

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rayreid.matching import maxima_kernels
from rayreid.matching.fused_maxima import tiling_of

TYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}


def compiled(kernel, constants: dict[str, int], kind: str, warps: int, stages: int):
    """Return the kernel, compiled as for dense maps whose sizes are multiples of 16."""
    of_maps = {"queries", "gallery", "maps"}
    written = {"weights": "*fp32", "forth": "*fp32", "back": "*fp32", "best": "*fp32"}
    signature = {
        name: "constexpr"
        if name in constants
        else f"*{kind}"
        if name in of_maps
        else written.get(name, "*i16" if name == "place" else "i32")
        for name in kernel.arg_names
    }
    sixteenths = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or "stride" in name or name == "c"
    }
    source = ASTSource(kernel, signature, constants, sixteenths)
    options = {"num_warps": warps, "num_stages": stages}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


@pytest.mark.parametrize(
    ("c", "n", "kind", "weighted"),
    [
        (128, 192, "fp16", True),
        (512, 192, "fp16", True),
        (512, 192, "fp16", False),
        (128, 50, "bf16", True),
        (64, 7, "fp16", False),
        (128, 192, "fp32", True),
    ],
)
def test_maxima_compile(c: int, n: int, kind: str, weighted: bool) -> None:
    tiling = tiling_of(c, n, TYPES[kind])
    blocks = -(-n // tiling.block)
    constants = {
        "POSITIONS": blocks * tiling.block, "COUNTED": n, "BLOCK": tiling.block,
        "QUERIES": tiling.queries, "MAPS": tiling.maps, "CHANNELS": tiling.channels,
        "WEIGHTED": weighted,
    }  # fmt: skip
    kernel = maxima_kernels.held_maxima
    if not tiling.held:
        kernel = maxima_kernels.sliced_maxima
        constants |= {"SLICES": c // tiling.channels, "ROOM": 1 << (blocks - 1).bit_length()}
    found = compiled(kernel, constants, kind, tiling.warps, tiling.stages)
    if kind != "fp32":
        assert found.metadata.shared <= tiling.shared_bytes(n)
    # Hopper's matrix unit; fp32 has none that is exact.
    assert ("wgmma.mma_async" in found.asm["ptx"]) == (kind != "fp32")


@pytest.mark.parametrize("kind", ["fp16", "fp32"])
def test_winners_compile(kind: str) -> None:
    constants = {
        "POSITIONS": 192, "COUNTED": 192, "BLOCK": 64,
        "CHANNELS": min(64, tiling_of(64, 192, TYPES[kind]).channels),
    }  # fmt: skip
    found = compiled(maxima_kernels.winners, constants, kind, 4, 3)
    assert ("wgmma.mma_async" in found.asm["ptx"]) == (kind == "fp16")
