import numpy as np
import pytest

from rayreid.data.synthetic.draws import Draws, combined, rgb


def draws(count: int = 20_000) -> Draws:
    return Draws(combined("test", np.arange(count, dtype=np.uint64)[:, None, None]))


def test_keys_are_the_same_on_every_machine() -> None:
    assert int(combined(1, "person", 2).item()) == 6404785152360119309


def test_keys_tell_order_and_parts_apart() -> None:
    keys = [combined(*parts).item() for parts in [(1, 2), (2, 1), (1,), (1, "2"), (0, 1, 2)]]
    assert len(set(keys)) == len(keys)


def test_a_draw_depends_on_its_own_key_and_name_only() -> None:
    everyone = draws()
    some = Draws(everyone.keys[100:200])
    some.uniform("another")
    np.testing.assert_array_equal(some.uniform("height"), everyone.uniform("height")[100:200])
    assert abs(np.corrcoef(everyone.uniform("a").ravel(), everyone.uniform("b").ravel())[0, 1]) < (
        0.03
    )


def test_uniform_draws_fill_their_range_evenly() -> None:
    drawn = draws().uniform("x", -1.0, 3.0)
    assert drawn.dtype == np.float32
    counts, _ = np.histogram(drawn, bins=8, range=(-1, 3))
    assert counts.sum() == drawn.size
    assert np.abs(counts / drawn.size - 1 / 8).max() < 0.01


def test_normal_draws_have_the_mean_and_deviation_asked_for() -> None:
    drawn = draws().normal("x", 2.0, 0.5)
    assert drawn.dtype == np.float32
    assert drawn.mean() == pytest.approx(2.0, abs=0.02)
    assert drawn.std() == pytest.approx(0.5, abs=0.02)


def test_one_of_follows_its_weights() -> None:
    drawn = draws().one_of("x", [1.0, 5.0, 9.0], [1.0, 0.0, 3.0])
    assert (drawn == 1).mean() == pytest.approx(0.25, abs=0.02)
    assert (drawn == 9).mean() == pytest.approx(0.75, abs=0.02)


def test_signs_and_chances_are_as_likely_as_asked() -> None:
    assert draws().chance("x", 0.2).mean() == pytest.approx(0.2, abs=0.02)
    assert draws().sign("x").mean() == pytest.approx(0.0, abs=0.03)


@pytest.mark.parametrize(
    ("hue", "expected"), [(0, (0.8, 0.4, 0.4)), (1 / 3, (0.4, 0.8, 0.4)), (0.5, (0.4, 0.8, 0.8))]
)
def test_rgb_of_hues(hue: float, expected: tuple[float, ...]) -> None:
    one = np.ones((1, 1, 1), dtype=np.float32)
    colour = rgb(one * hue, one * 0.5, one * 0.8)
    assert colour.shape == (1, 3, 1, 1)
    np.testing.assert_allclose(colour.ravel(), expected, atol=1e-6)
