import numpy as np
import pytest

from rayreid.data.synthetic.degrading import Recorder
from rayreid.data.synthetic.styles import Style

GREY = np.full((64, 32, 3), 128, dtype=np.uint8)


def stripes() -> np.ndarray:
    picture = GREY.copy()
    picture[::2] = 40
    return picture


def test_noise_has_the_deviation_asked_for() -> None:
    noisy = Recorder(Style(noise=8.0)).recorded(GREY, 77, 400.0, 98.0).astype(float)
    # JPEG averages the noise of colours over 2 x 2 pixels, but hardly that of brightness.
    brightness = noisy @ [0.299, 0.587, 0.114]
    expected = 8.0 * np.linalg.norm([0.299, 0.587, 0.114])
    assert brightness.std() == pytest.approx(expected, rel=0.15)
    assert brightness.mean() == pytest.approx(128, abs=1)


def test_without_noise_and_loss_a_picture_is_kept() -> None:
    kept = Recorder(Style(noise=0.0)).recorded(stripes(), 0, 400.0, 98.0)
    assert np.abs(kept.astype(int) - stripes()).max() <= 3


def test_low_quality_and_few_lines_lose_detail() -> None:
    recorder = Recorder(Style(noise=0.0))
    error = [
        np.abs(recorder.recorded(stripes(), 0, lines, quality).astype(int) - stripes()).mean()
        for lines, quality in [(400.0, 98.0), (400.0, 10.0), (30.0, 98.0)]
    ]
    assert error[0] < 1
    assert error[1] > 2 * error[0]
    assert error[2] > 20


def test_grain_starts_where_it_is_told() -> None:
    recorder = Recorder(Style(noise=8.0))
    first, second = (recorder.recorded(GREY, start, 400.0, 90.0) for start in (0, 3000))
    assert not np.array_equal(first, second)
    # A picture with more pixels than the tape wraps round it.
    large = np.zeros((256, 256, 3), dtype=np.uint8)
    assert recorder.recorded(large, 65535, 400.0, 90.0).shape == large.shape
