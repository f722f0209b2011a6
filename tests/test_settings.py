import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rayreid.settings import Settings, checked, dotted, nested, parse_assignment, read_yaml

NAMES = st.text("abc", min_size=1, max_size=3)
TREES = st.recursive(
    st.dictionaries(NAMES, st.integers(), min_size=1, max_size=3),
    lambda inner: st.dictionaries(NAMES, inner | st.integers(), min_size=1, max_size=3),
    max_leaves=8,
)


class Inner(Settings):
    rate: float = 0.5


class Outer(Settings):
    inner: Inner = Inner()
    count: int = 3


@given(TREES)
def test_dotted_and_nested_are_inverses(tree: dict[str, object]) -> None:
    assert nested(dotted(tree)) == tree


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cuont": 1}, "there is no setting 'cuont'; did you mean 'count'?"),
        ({"inner": {"rat": 1}}, "there is no setting 'inner.rat'; did you mean 'rate'?"),
        ({"zzzzzz": 1}, "there is no setting 'zzzzzz'; there are inner, count"),
        ({"count": "many"}, "setting 'count': input should be a valid integer.*found 'many'"),
        ({"inner": {"rate": float("nan")}}, "setting 'inner.rate': .*finite"),
    ],
)
def test_a_mistake_is_one_sentence(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        checked(Outer, values)
    assert "\n" not in str(error.value)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        checked(Outer, {}).count = 4  # type: ignore[misc]


def test_assignments_read_numbers_as_numbers() -> None:
    assert parse_assignment("a.b=0.1") == ("a.b", 0.1)
    assert parse_assignment("sources=[x, y]") == ("sources", ["x", "y"])
    # YAML reads 1e-4 as text; the field makes a number of it.
    assert checked(Inner, dict([parse_assignment("rate=1e-4")])).rate == 1e-4


@pytest.mark.parametrize("text", ["a", "=3", "a={"])
def test_what_is_no_assignment_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an assignment|not readable"):
        parse_assignment(text)


def test_a_path_below_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match="is set below 'a'"):
        nested({"a": 1, "a.b": 2})


@pytest.mark.parametrize("text", ["- 1", "a: [", "3"])
def test_what_holds_no_settings_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"where\.yaml"):
        read_yaml(text, "where.yaml")
