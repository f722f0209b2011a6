import numpy as np

from rayreid.data.synthetic.draws import combined
from rayreid.data.synthetic.people import People, people_of
from rayreid.data.synthetic.styles import NAMED_STYLES, Style

KEYS = combined("people", np.arange(2000, dtype=np.uint64)[:, None, None])


def test_every_attribute_is_a_finite_float32_column_or_colour() -> None:
    people = people_of(KEYS, NAMED_STYLES["snow"])
    for name, value in vars(people).items():
        assert value.dtype == np.float32, name
        assert value.shape in {(2000, 1, 1), (2000, 3, 1, 1)}, name
        assert np.isfinite(value).all(), name


def test_a_person_is_the_same_whoever_else_is_drawn() -> None:
    alone = people_of(KEYS[7:8], Style())
    together = people_of(KEYS, Style())
    for name, value in vars(alone).items():
        np.testing.assert_array_equal(value, getattr(together, name)[7:8], err_msg=name)


def test_a_wardrobe_follows_its_style() -> None:
    def mean(people: People, name: str) -> float:
        return float(getattr(people, name).mean())

    winter = people_of(KEYS, NAMED_STYLES["snow"])
    summer = people_of(KEYS, NAMED_STYLES["beach-promenade"])
    assert abs(mean(winter, "coat") - NAMED_STYLES["snow"].coats) < 0.05
    assert mean(winter, "coat") > mean(summer, "coat") + 0.5
    assert mean(winter, "sleeve") > mean(summer, "sleeve") + 0.5
    assert mean(winter, "trouser_end") > mean(summer, "trouser_end") + 0.05
    assert mean(winter, "top") < mean(summer, "top") - 0.05
