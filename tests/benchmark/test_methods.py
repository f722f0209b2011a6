"""A comparison of two entries on the smallest of domains, whole, interrupted and continued."""

import json
from pathlib import Path

import pytest

from rayreid.benchmark.methods import (
    CELLS,
    compare,
    folds_of,
    read_rows,
    refuse_leaks,
    run_cell,
    write_page,
)
from rayreid.benchmark.plan import Plan, cells, load_plan, narrowed
from rayreid.protocols import Fold
from rayreid.settings import checked
from tests.miniature import MINIATURE

SHARED = {k: v for k, v in MINIATURE.items() if k != "sources"} | {
    "epochs": 1,
    "trunk.stride_one_stages": 2,
}
PLAN = checked(
    Plan,
    {
        "sources": ["synthetic=snow", "synthetic=subway", "synthetic=plaza-noon"],
        "unseen": ["synthetic=law-1", "synthetic=law-2"],
        "seeds": [0, 1],
        "ablation_seeds": [1],
        "shared": SHARED,
        "entries": {
            "baseline": {
                "method": "baseline",
                "also": ["adabn", "cosine", "untrained", "colour histogram"],
            },
            "daam": {"method": "daam", "settings": {"config.target_from_epoch": 0}},
            "baseline without colour": {
                "method": "baseline",
                "settings": {"trunk.normalise": "image"},
                "ablates": "baseline",
            },
        },
    },
)


def test_cells_are_every_entry_seed_and_fold() -> None:
    made = list(cells(PLAN))
    assert len(made) == 2 * 2 * 3 + 3
    assert len({cell.key for cell in made}) == len(made)
    for cell in made:
        assert cell.held_out not in cell.experiment.sources
        assert len(cell.experiment.sources) == 2
        assert cell.experiment.seed == cell.experiment.synthetic.seed == cell.seed
        assert cell.experiment.target == (cell.held_out if cell.entry == "daam" else "")


def test_a_cell_is_ranked_in_every_way_on_every_domain() -> None:
    first = next(cells(PLAN))
    rows = run_cell(first, PLAN)
    assert [row["ranked by"] for row in rows] == ["", *PLAN.entries["baseline"].also]
    for row in rows:
        assert set(row["seen"]) == {"subway", "plaza-noon"}
        assert set(row["unseen"]) == {"snow", "law-1", "law-2"}
        for map_, rank1 in (*row["seen"].values(), *row["unseen"].values()):
            assert 0 <= map_ <= 1
            assert 0 <= rank1 <= 1
    plain, adabn, cosine, untrained, colours = rows
    assert cosine["unseen"] == plain["unseen"], "the baseline's own score"
    assert len({json.dumps(row["unseen"]) for row in (plain, adabn, untrained, colours)}) == 4
    assert plain["costs"]["macs per pair"] == cosine["costs"]["macs per pair"] == 96
    assert plain["costs"]["bytes per image"] == 4 * 96
    assert not adabn["costs"], "no training, no scoring of its own"


@pytest.mark.timeout(200)
def test_an_interrupted_comparison_goes_on_where_it_stopped(tmp_path: Path) -> None:
    plan = narrowed(PLAN, ["daam"], ()).model_copy(update={"seeds": (0,), "ablation_seeds": ()})
    folds = folds_of(plan, None)[:2]
    told: list[str] = []
    rows = compare(plan, tmp_path, told.append, folds=folds, processes=1)
    assert len(told) == len(rows) == 2
    assert "daam, seed 0, without snow" in told[0]
    kept = (tmp_path / CELLS).read_text()
    (tmp_path / CELLS).write_text(kept.splitlines()[0] + "\n" + kept.splitlines()[1][:40])
    assert len(read_rows(tmp_path)) == 1
    told.clear()
    again = compare(plan, tmp_path, told.append, folds=folds, processes=1)
    assert len(told) == 1
    figures = {row["key"]: row["unseen"] for row in rows}
    assert {row["key"]: row["unseen"] for row in again} == figures
    assert compare(plan, tmp_path, told.append, folds=folds, processes=1) == again
    assert len(told) == 1
    text = write_page(plan, again, tmp_path)
    assert (tmp_path / "README.md").read_text() == text
    assert (tmp_path / "unseen.svg").is_file()
    assert "daam" in text


def test_one_source_and_target_instead_of_folds() -> None:
    plan = narrowed(PLAN, ["baseline"], ["synthetic=law-9"])
    (fold,) = folds_of(plan, "synthetic=snow")
    assert (fold.sources, fold.held_out) == (("synthetic=snow",), "synthetic=law-9")
    refuse_leaks(plan, [fold])
    with pytest.raises(ValueError, match="is the target and a source"):
        refuse_leaks(plan, folds_of(plan, "synthetic=law-9"))


@pytest.mark.parametrize("where", ["unseen", "elsewhere"])
def test_a_source_is_never_ranked_as_unseen(where: str) -> None:
    leaking = PLAN.model_copy(update={where: ("synthetic=law-1", "synthetic=snow")})
    with pytest.raises(ValueError, match="synthetic=snow is the target and a source"):
        refuse_leaks(leaking)
    # A domain that is held out and nowhere learnt from may be ranked.
    refuse_leaks(leaking, [Fold(("synthetic=subway",), "synthetic=plaza-noon")])


@pytest.mark.slow
def test_what_a_plan_asks_for_now_is_run_now(tmp_path: Path) -> None:
    plan = narrowed(PLAN, ["baseline"], ()).model_copy(update={"seeds": (0,)})
    plan.entries["baseline"] = plan.entries["baseline"].model_copy(update={"also": ()})
    folds = folds_of(plan, None)[:1]
    told: list[str] = []
    compare(plan, tmp_path, told.append, folds=folds, processes=1)
    more = plan.model_copy(update={"elsewhere": ("synthetic=law-3",)})
    (row,) = compare(more, tmp_path, told.append, folds=folds, processes=1)
    assert set(row["elsewhere"]) == {"law-3"}
    assert len(told) == 2
    assert len(read_rows(tmp_path)) == 1


def test_the_packaged_plan_is_one_for_all() -> None:
    plan = load_plan()
    assert len(plan.sources) >= 4
    assert len(plan.unseen) >= 8
    assert len(plan.seeds) >= 3
    made = list(cells(plan))
    # What differs between entries is the method, its hyper-parameters, and what an entry says.
    for name in ("views", "loading", "optimiser"):
        assert len({str(getattr(c.experiment, name)) for c in made}) == 1, name
    assert len({(c.experiment.epochs, c.experiment.steps_per_epoch) for c in made}) == 1
    rows = {e if not w else f"{e}, {w}" for e, x in plan.entries.items() for w in ("", *x.also)}
    for name, entry in plan.entries.items():
        assert not entry.against or entry.against in rows, name
        assert not entry.ablates or entry.ablates in plan.entries, name


def test_the_rows_that_are_kept_are_of_the_plan_s_cells() -> None:
    kept = {row["key"] for row in read_rows(Path(__file__).parents[2] / "results" / "methods")}
    assert kept == {cell.key for cell in cells(load_plan())}


def test_an_entry_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="there is no entry 'gnm'; did you mean 'gmn'"):
        narrowed(load_plan(), ["gnm"], ())
    with pytest.raises(FileNotFoundError, match="there is no plan"):
        load_plan(Path("nowhere.yaml"))
