"""Query-adaptive matching on a GPU: its rate beside the matrix peak and beside the plain form.

``python -m rayreid.benchmark.gpu_matching`` needs torch, triton and a CUDA device, and neither
data nor the rest of this package's requirements.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rayreid.matching import fused_maxima
from rayreid.matching.fused_maxima import Tiling, tiling_of
from rayreid.matching.maxima import self_maxima

Maxima = tuple[Tensor, Tensor]

POSITIONS = 192
"""Of a map: 24 x 8, of a crop of 384 x 128."""

QUERIES, GALLERY = 256, 2048
"""Maps that are matched where a rate is measured."""

MARKET = (3_368, 15_913)
"""Query and gallery crops of Market-1501."""

BATCH = 64
"""Maps of a training step."""

CANDIDATES = (
    Tiling(64, 1, 1, 128, held=True, warps=4, stages=2),
    Tiling(64, 1, 1, 128, held=True, warps=4, stages=3),
    Tiling(64, 1, 2, 128, held=True, warps=4, stages=2),
    Tiling(64, 2, 1, 128, held=True, warps=8, stages=2),
    Tiling(64, 2, 2, 128, held=True, warps=8, stages=2),
    Tiling(64, 2, 2, 128, held=True, warps=8, stages=3),
    Tiling(64, 1, 1, 64, held=False, warps=4, stages=3),
    Tiling(64, 2, 1, 64, held=False, warps=4, stages=3),
    Tiling(64, 1, 2, 64, held=False, warps=4, stages=3),
    Tiling(64, 2, 1, 64, held=False, warps=8, stages=3),
    Tiling(64, 2, 2, 32, held=False, warps=8, stages=4),
    Tiling(64, 2, 2, 64, held=False, warps=8, stages=2),
    Tiling(64, 2, 2, 64, held=False, warps=8, stages=3),
    Tiling(64, 2, 2, 64, held=False, warps=8, stages=4),
    Tiling(64, 2, 2, 128, held=False, warps=8, stages=2),
    Tiling(64, 2, 4, 64, held=False, warps=8, stages=3),
    Tiling(64, 2, 4, 64, held=False, warps=16, stages=3),
    Tiling(64, 4, 2, 64, held=False, warps=8, stages=3),
)
"""Those that compile for Hopper; some spill registers."""


@dataclass(frozen=True)
class Rate:
    """How fast one way scores all pairs of maps of POSITIONS positions."""

    way: str
    channels: int
    seconds: float
    pairs: int
    error: float | None = None
    """Largest difference from float64, in standard deviations of what is computed."""

    @property
    def flops(self) -> float:
        """Of the correlation alone, a second."""
        return 2 * POSITIONS**2 * self.channels * self.pairs / self.seconds


def measured(tell: Callable[[str], None], *, tune: bool = False) -> dict[str, object]:
    """Return the figures, and tell them as they come, in Markdown.

    Raises ValueError without a CUDA device that triton can use.
    """
    if not fused_maxima.available():
        raise ValueError(
            "this measures a GPU, and found no CUDA device of compute capability 7.0 or above with "
            "triton installed: run it on a machine that has one"
        )
    peak = matrix_peak()
    versions = f"torch {torch.__version__}, triton {version('triton')}"
    where = f"{torch.cuda.get_device_name()}, {versions}"
    tell(f"{where}: {peak / 1e12:.0f} TFLOP/s in a product of 8192 x 8192 fp16 matrices\n")
    rates = [rate for c in (128, 512) for rate in scoring_rates(c)]
    tell(rate_table(rates, peak))
    found: dict[str, object] = {"where": where, "peak": peak, "rates": [*map(asdict, rates)]}
    if tune:
        tuned = [rate for c in (128, 512) for rate in tuned_rates(c, tell)]
        tell(rate_table(tuned, peak))
        found["tuned"] = [*map(asdict, tuned)]
    for c in (128, 512):
        market = scored_market(c)
        step = training_step(c)
        tell(sentence(f"All pairs of Market-1501's size, {c} channels", market))
        tell(sentence(f"Maxima of a batch of {BATCH} and their gradient, {c} channels", step))
        found |= {f"market_{c}": market, f"step_{c}": step}
    return found


def matrix_peak(size: int = 8192) -> float:
    """Return the operations a second of torch's product of two random fp16 matrices."""
    one, other = (torch.randn(size, size, device="cuda", dtype=torch.half) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: one @ other)


def plain_maxima(queries: Float[Tensor, "q c n"], gallery: Float[Tensor, "g c n"]) -> Maxima:
    """Return both maxima by way of the whole correlation, as published code does."""
    products = torch.einsum("pcs,gcr->pgsr", queries, gallery)
    return products.amax(3), products.amax(2)


def stored_scores(queries: Tensor, gallery: Tensor, weights: Tensor) -> Tensor:
    """Return the scores of all pairs from maxima that are written to memory."""
    return weighed(*fused_maxima.correlation_maxima(queries, gallery), weights)


def plain_scores(queries: Tensor, gallery: Tensor, weights: Tensor) -> Tensor:
    """Return the scores of all pairs in the plain way."""
    return weighed(*plain_maxima(queries, gallery), weights)


def weighed(forth: Tensor, back: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of both maxima, in the weights' type."""
    return (forth.to(weights.dtype) + back.to(weights.dtype)) @ weights


WAYS: Mapping[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], int, int]] = {
    "fused, scores alone": (fused_maxima.weighted_maxima, QUERIES, GALLERY),
    "fused, both maxima stored": (stored_scores, QUERIES, GALLERY),
    "plain": (plain_scores, 64, 128),
}
"""Ways to the scores of a head without a hidden layer, and of how many maps they are timed."""


def scoring_rates(c: int) -> list[Rate]:
    """Return the rate and the error of each way, in each type that a matrix unit may take."""
    exact = random_maps(QUERIES, c, torch.float32), random_maps(GALLERY, c, torch.float32)
    weights = torch.rand(POSITIONS, device="cuda")
    # Pairs that are more and less alike, as real ones are.
    share = torch.linspace(0, 1, 16, device="cuda")[:, None, None]
    near = F.normalize(share * exact[0][:16] + (1 - share) * exact[1][:16], dim=1)
    truth = plain_scores(exact[0][:16].double(), near.double(), weights.double())
    rates = []
    for dtype in (torch.half, torch.bfloat16, torch.float32):
        queries, gallery = (maps.to(dtype) for maps in exact)
        if dtype == torch.float32:  # Slow: of a few.
            gallery = gallery[: GALLERY // 16]
        for way, (scores, q, g) in WAYS.items():
            few = scores(queries[:16], near.to(dtype), weights).double()
            error = ((few - truth).abs().max() / truth.std()).item()
            these = queries[:q], gallery[:g]
            seconds = seconds_of(partial(scores, *these, weights))
            pairs = len(these[0]) * len(these[1])
            kind = str(dtype).removeprefix("torch.")
            rates.append(Rate(f"{way}, {kind}", c, seconds, pairs, error))
    return rates


def tuned_rates(c: int, tell: Callable[[str], None]) -> list[Rate]:
    """Return the rates of all candidates, the fastest first; one that cannot run is told of."""
    queries, gallery = random_maps(QUERIES, c, torch.half), random_maps(GALLERY, c, torch.half)
    weights = torch.rand(POSITIONS, device="cuda")
    rates = []
    for tiling in {tiling_of(c, POSITIONS, torch.half): None} | dict.fromkeys(CANDIDATES):
        if tiling.held and tiling.channels != c:
            continue
        try:
            scores = partial(fused_maxima.weighted_maxima, queries, gallery, weights, tiling)
            seconds = seconds_of(scores)
        # Whatever the compiler or the driver has against one candidate, the others count.
        except Exception as error:
            tell(f"{tiling}: {type(error).__name__} {str(error).splitlines()[:1]}")
            continue
        rates.append(Rate(str(tiling), c, seconds, QUERIES * GALLERY))
    return sorted(rates, key=lambda rate: rate.seconds)


def scored_market(c: int) -> dict[str, float]:
    """Return the seconds of all pairs of a set of Market-1501's size, and memory over its maps."""
    queries, gallery = (random_maps(size, c, torch.half) for size in MARKET)
    weights = torch.rand(POSITIONS, device="cuda")
    fused_maxima.weighted_maxima(queries[:64], gallery[:512], weights)
    return measured_once(partial(fused_maxima.weighted_maxima, queries, gallery, weights))


def training_step(c: int) -> dict[str, float]:
    """Return seconds and memory of maxima and gradient, fused and plain, and how they agree.

    Under autocast to fp16, which the plain form needs to be fast; agreement is in fp32.
    """
    maps = random_maps(BATCH, c, torch.float32).requires_grad_()
    weights = torch.rand(2, BATCH, BATCH, POSITIONS, device="cuda")

    def gradient(maxima: Callable[[Tensor], Maxima], half: bool = True) -> Tensor:
        with torch.autocast("cuda", torch.half, enabled=half):
            forth, back = maxima(maps)
        loss = (forth.float() * weights[0] + back.float() * weights[1]).sum()
        return torch.autograd.grad(loss, maps)[0]

    def plain(maps: Tensor) -> Maxima:
        return plain_maxima(maps, maps)

    ways: Mapping[str, Callable[[Tensor], Maxima]] = {
        "fused": self_maxima,
        "plain": plain,
    }
    found: dict[str, float] = {}
    for name, maxima in ways.items():
        found[f"{name}_seconds"] = seconds_of(partial(gradient, maxima))
        found[f"{name}_memory"] = measured_once(partial(gradient, maxima))["memory"]
    one, other = (gradient(maxima, half=False) for maxima in ways.values())
    found["gradient_difference"] = ((one - other).norm() / other.norm()).item()
    return found


def random_maps(size: int, c: int, dtype: torch.dtype) -> Tensor:
    """Return random maps, normalised over channels; drawn in parts, so that little more is held."""
    maps = torch.empty(size, c, POSITIONS, device="cuda", dtype=dtype)
    for part in maps.split(1024):
        part.copy_(F.normalize(torch.randn(part.shape, device="cuda"), dim=1))
    return maps


def seconds_of(run: Callable[[], object], rounds: int = 10) -> float:
    """Return the median seconds of a call, by the device's clock, after three to warm up."""
    taken: list[float] = []
    for number in range(3 + rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        if number >= 3:
            taken.append(start.elapsed_time(end) / 1000)
    return statistics.median(taken)


def measured_once(run: Callable[[], object]) -> dict[str, float]:
    """Return the seconds of one call, and the peak memory in bytes over what is held already."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    taken = seconds_of(run, rounds=1)
    return {"seconds": taken, "memory": float(torch.cuda.max_memory_allocated() - held)}


def rate_table(rates: Sequence[Rate], peak: float) -> str:
    """Return a Markdown table of rates beside the peak."""
    lines = [
        f"| channels | {POSITIONS} positions | pairs a second | TFLOP/s | of the peak | error |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for rate in rates:
        error = "" if rate.error is None else f"{rate.error:.0e}"
        lines.append(
            f"| {rate.channels} | {rate.way} | {rate.pairs / rate.seconds:.3g} "
            f"| {rate.flops / 1e12:.1f} | {rate.flops / peak:.1%} | {error} |"
        )
    return "\n".join(lines) + "\n"


def sentence(what: str, figures: Mapping[str, float]) -> str:
    """Return figures in words."""
    parts = []
    for name, value in figures.items():
        words = name.replace("_", " ")
        if name.endswith("memory"):
            parts.append(f"{words} {value / 2**20:.0f} MiB over the maps")
        elif name.endswith("seconds"):
            parts.append(f"{words} {value:.4g}")
        else:
            parts.append(f"{words} {value:.1e}")
    return f"{what}: {', '.join(parts)}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser("rayreid.benchmark.gpu_matching", description=__doc__)
    parser.add_argument("--tune", action="store_true", help="measure the candidates for tilings")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write the figures as JSON")
    chosen = parser.parse_args(arguments)
    try:
        found = measured(lambda text: print(text, flush=True), tune=chosen.tune)
    except ValueError as mistake:
        print(f"Error: {mistake}", file=sys.stderr)
        return 2
    if chosen.to:
        chosen.to.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
