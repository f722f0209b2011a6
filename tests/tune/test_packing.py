"""Parts of a GPU: the arithmetic, and the measurement as far as a CPU can show it."""

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from rayreid.experiment import compose
from rayreid.protocols import leave_one_domain_out
from rayreid.run import open_sources
from rayreid.tune import StudySettings
from rayreid.tune.packing import CONTEXT, MARGIN, footprint, packed, part_of_gpu
from tests.miniature import MINIATURE

GIB = 2**30


@given(st.integers(2**20, 40 * GIB), st.integers(60 * GIB, 200 * GIB))
def test_as_many_trials_share_a_gpu_as_its_memory_holds(peak: int, total: int) -> None:
    part = part_of_gpu(peak, total)
    trials = int(1 / part)
    # Ray counts in ten-thousandths.
    units = round(part * 10_000)
    assert units == pytest.approx(part * 10_000)
    assert trials * units <= 10_000
    fit = 0
    while (fit + 1) * (MARGIN * peak + CONTEXT) <= total:
        fit += 1
    assert fit * units <= 10_000 < (fit + 1) * units or fit >= 100
    assert fit <= 10_000 // units


def test_a_trial_that_no_gpu_holds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"takes 70\.0 GiB of GPU memory, .* the 80\.0 GiB"):
        part_of_gpu(70 * GIB, 80 * GIB)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_session")
def test_larger_batches_take_more() -> None:
    sizes = []
    # Each in a process of its own: what one has freed the next would find.
    measured = ray.remote(num_cpus=1, max_calls=1)(footprint)
    for crops in (2, 24):
        experiment = compose("baseline", MINIATURE, {"sampling.crops": crops})
        domains = dict(zip(experiment.sources, open_sources(experiment), strict=True))
        folds = leave_one_domain_out(experiment.sources)
        found = ray.get(measured.remote(experiment, domains, folds))
        sizes.append(found.peak)
        assert found.peak < found.total
    assert 0 < sizes[0] < sizes[1]


@pytest.mark.usefixtures("ray_session")
def test_without_gpus_there_is_nothing_to_pack() -> None:
    assert not ray.cluster_resources().get("GPU", 0)
    with pytest.raises(ValueError, match="the cluster has none"):
        packed(StudySettings(pack=True), compose("baseline", MINIATURE), {}, [])
