from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayreid.data.layouts import FOLDERS, parse_layout
from rayreid.protocols import (
    PROTOCOLS,
    leave_one_domain_out,
    refuse_target,
    round_of,
    splits_of,
)

SOURCES = st.lists(
    st.integers(0, 50).map(lambda seed: f"synthetic=law-{seed}"), min_size=2, unique=True
).map(tuple)


@given(SOURCES)
def test_every_source_is_held_out_once_and_never_learnt_then(sources: tuple[str, ...]) -> None:
    folds = leave_one_domain_out(sources)
    assert [fold.held_out for fold in folds] == list(sources)
    for fold in folds:
        assert set(fold.sources) == set(sources) - {fold.held_out}


def test_one_source_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="needs at least two sources, found 1"):
        leave_one_domain_out(("synthetic=snow",))


def test_a_target_among_the_sources_is_refused_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = ("synthetic=snow", "market1501=here")
    refuse_target(sources, None)
    refuse_target(sources, "synthetic=subway")
    here = f"{tmp_path}/there/../here"
    for target in ("synthetic=snow", f"market1501={here}", f"market1501:all={here}"):
        with pytest.raises(ValueError, match="is the target and a source"):
            refuse_target(sources, target)


def test_people_of_a_target_that_are_in_another_set_too_are_refused() -> None:
    for one, other in (("cuhk01", "cuhk02"), ("cuhk02", "cuhk01")):
        with pytest.raises(ValueError, match="show some of the same people"):
            refuse_target(("synthetic=snow", f"{one}:all=/a"), f"{other}=/b")
    refuse_target(("cuhk02=/a",), "viper=/b")


def test_a_set_learnt_whole_is_ranked_on_its_test_part_when_it_is_held_out() -> None:
    folds = leave_one_domain_out(("market1501:all=/m", "cuhk03:all,labeled=/c", "cuhk_sysu=/s"))
    assert [fold.held_out for fold in folds] == ["market1501=/m", "cuhk03:labeled=/c"]
    assert folds[0].sources == ("cuhk03:all,labeled=/c", "cuhk_sysu=/s")
    with pytest.raises(ValueError, match=r"none of .* can be held out"):
        leave_one_domain_out(("cuhk_sysu=/s", "randperson=/r"))


ROUNDS = [
    f"{name}:{which}" if which else name for name, rounds in PROTOCOLS.items() for which in rounds
]


@pytest.mark.parametrize("name", ROUNDS)
def test_no_round_ranks_what_it_learns(name: str) -> None:
    places = {layout: f"/data/{layout}" for layout in FOLDERS}
    one = round_of(name, places)
    for target in one.targets:
        refuse_target(one.sources, target)
    assert not any("duke" in source for source in (*one.sources, *one.targets))
    # What selects settings comes from the sources alone.
    if len(one.sources) > 1:
        for fold in leave_one_domain_out(one.sources):
            for target in one.targets:
                refuse_target((*fold.sources, fold.held_out), target)


def test_rounds_are_those_of_the_papers() -> None:
    places = {layout: f"/{layout}" for layout in FOLDERS}
    second = round_of("P2:cuhk03", places)
    assert second.sources == ("market1501=/market1501", "msmt17=/msmt17", "cuhk_sysu=/cuhk_sysu")
    assert second.targets == ("cuhk03=/cuhk03",)
    third = round_of("P3:cuhk03", places)
    assert third.sources == (
        "market1501:all=/market1501", "msmt17:all=/msmt17", "cuhk_sysu=/cuhk_sysu"
    )  # fmt: skip
    assert round_of("P1", places).targets == (
        "prid2011=/prid2011", "grid=/grid", "viper=/viper", "ilids=/ilids"
    )  # fmt: skip
    assert round_of("single:msmt17", places).sources == ("msmt17=/msmt17",)


def test_places_bring_options_and_packed_sets() -> None:
    places = {"market1501": "s3://reid/market1501", "cuhk03:labeled": "/c", "cuhk_sysu": "/s"}
    one = round_of("P3:msmt17", places, parts=["sources"])
    assert one.sources == (
        "packed:all=s3://reid/market1501", "cuhk03:all,labeled=/c", "cuhk_sysu=/s"
    )  # fmt: skip
    assert one.targets == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("P4", "there is no protocol 'P4'; did you mean"),
        ("P2", "there is no round 'P2' of the protocol P2; there are P2:market1501, P2:msmt17"),
        ("P1:market1501", "there is no round 'P1:market1501' of the protocol P1; there are P1"),
        ("P2:market1501", "needs msmt17, cuhk_sysu, market1501 too; say where, --data msmt17=F"),
    ],
)
def test_what_is_no_round_is_named(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        round_of(name, {"cuhk03": "/c"})


def test_a_set_with_splits_is_ranked_on_each() -> None:
    ten = splits_of("viper=/v")
    assert ten == tuple(f"viper:{number}=/v" for number in range(1, 11))
    assert splits_of("viper:3=/v") == ("viper:3=/v",)
    assert splits_of("viper:all=/v") == ("viper:all=/v",)
    assert splits_of("market1501=/m") == ("market1501=/m",)
    assert splits_of("synthetic=snow") == ("synthetic=snow",)
    assert splits_of("cuhk03=/c") == ("cuhk03=/c",)
    assert splits_of("cuhk03:classic=/c")[19] == "cuhk03:20,classic=/c"
    both = splits_of("viper=/v", both_directions=True)
    assert both[:10] == ten
    assert both[10:] == tuple(f"viper:{number},swapped=/v" for number in range(1, 11))
    assert all(parse_layout(one.partition("=")[0]) for one in both)
