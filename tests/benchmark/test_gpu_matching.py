"""What the benchmark of a GPU says where there is none; its table on made-up figures."""

import subprocess
import sys

import pytest
import torch

from rayreid.benchmark import gpu_matching
from rayreid.benchmark.gpu_matching import Rate, main, rate_table, sentence


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("Error: this measures a GPU, and found no CUDA device")
    assert said.err.count("\n") == 1


def test_it_needs_torch_alone() -> None:
    code = (
        "import sys, rayreid.benchmark.gpu_matching; "
        "print({'pydantic', 'click', 'ray', 'optuna', 'timm', 'triton'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"


def test_a_rate_is_a_share_of_the_peak() -> None:
    # 2 * 192^2 * 128 operations a pair.
    rate = Rate("fused", 128, seconds=2.0, pairs=10**6, error=5e-5)
    assert rate.flops == pytest.approx(9_437_184e6 / 2)
    line = rate_table([rate], peak=2 * rate.flops).splitlines()[-1]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells == ["128", "fused", "5e+05", "4.7", "50.0%", "5e-05"]
    assert "| 50.0% |  |" in rate_table([Rate("fused", 128, 2.0, 10**6)], 2 * rate.flops)


def test_figures_in_words() -> None:
    found = sentence("All pairs", {"seconds": 1.25, "memory": 3 * 2**20})
    assert found == "All pairs: seconds 1.25, memory 3 MiB over the maps."


def test_candidates_are_different() -> None:
    assert len(set(gpu_matching.CANDIDATES)) == len(gpu_matching.CANDIDATES)
