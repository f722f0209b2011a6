from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from rayreid.batch import Batch, Census
from rayreid.checkpoint import save_trained
from rayreid.cli import cli
from rayreid.data.views import as_images
from rayreid.experiment import compose
from rayreid.explain import AGAINST, FOR, Explained, Match, explain_pair, picture
from rayreid.method import Method
from rayreid.methods import METHODS
from rayreid.nn.contributions import cosine_explanation, covered, difference_explanation
from rayreid.nn.trunk import TrunkSettings
from rayreid.settings import Settings
from tests.methods.test_contract import CENSUS, SMALL, images, learnt

VARIANTS = {
    "gmn": [{"config.depth": 0}, {"config.depth": 2, "config.feature_norm": "l2"}],
    "qaconv_ms": [{"config.hidden": 0, "config.scales": (), "config.global_branch": False},
                  {"config.hidden": 16, "config.orthogonal_norm": False}],
}  # fmt: skip
CASES = [(name, {}) for name in METHODS]
CASES += [(name, changed) for name, kinds in VARIANTS.items() for changed in kinds]


NARROW = {
    "gmn": {"config.hidden": 16},
    "qaconv_ms": {"config.hidden": 16, "config.channels": 32, "config.global_hidden": 32},
}


def settings(name: str, changed: Mapping[str, object]) -> dict[str, object]:
    return SMALL | NARROW.get(name, {}) | dict(changed)


def taught(name: str, changed: Mapping[str, object]) -> Method:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.methods.test_contract.SMALL", settings(name, changed))
        return learnt(name)


@cache
def matcher() -> Method:
    return taught("qaconv_ms", {})


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}{list(case[1])}")
def method(request: pytest.FixtureRequest) -> Method:
    found = taught(*request.param)
    with torch.no_grad():
        for parameter in found.parameters():
            # Away from initial values at which parts of a score are constant.
            parameter += 0.05 * torch.randn_like(parameter) * parameter.abs().mean()
    return found


@torch.inference_mode()
def test_shares_of_places_sum_to_the_score_as_said(method: Method) -> None:
    one, other = images(2, 7)
    found = method.explain(torch.stack([one, other]))
    alone = [method.embed(image[None]) for image in (one, other)]
    score = float(method.score(*alone))
    assert found.score == pytest.approx(score, rel=2e-4, abs=2e-4)
    sides = [float(side.double().sum()) for side in (found.first, found.second)]
    near = pytest.approx(score - found.constant, rel=2e-3, abs=2e-3)
    assert found.sums == ("together" if type(method).__name__ == "QAConvMS" else "each")
    if found.sums == "each":
        assert sides[0] == near
        assert sides[1] == near
    else:
        assert sum(sides) == near
    assert found.first.abs().max() > 0


@torch.inference_mode()
def test_crops_that_change_places_change_their_shares(method: Method) -> None:
    pair = images(2, 8)
    found, back = method.explain(pair), method.explain(pair.flip(0))
    assert found.score == pytest.approx(back.score, rel=1e-4, abs=1e-4)
    assert torch.allclose(found.first, back.second, atol=1e-4)
    assert torch.allclose(found.second, back.first, atol=1e-4)
    if found.attention is not None:
        assert torch.allclose(found.attention[0], back.attention[1], atol=1e-5)
        assert 0 < found.attention[0].min() <= found.attention[0].max() < 1


@torch.inference_mode()
def test_matches_are_the_best_there_are_and_add_up(method: Method) -> None:
    found = method.explain(images(2, 9))
    if found.matches is None:
        return
    listed, n = found.matches, found.first.numel()
    sums = torch.zeros(n).index_add(0, listed.first, listed.adds)
    if type(method).__name__ == "QAConvMS":
        maps = method.embed(images(2, 9))
        for i, _ in enumerate(listed.parts):
            products = maps[0, i].T @ maps[1, i]
            rows = listed.part == i
            forth, back = (side[rows].chunk(2) for side in (listed.first, listed.second))
            assert torch.equal(back[0], products.argmax(1))
            assert torch.equal(forth[1], products.argmax(0))
        assert float(listed.adds.sum()) + found.constant == pytest.approx(found.score, abs=2e-3)
    else:
        # Of each place only the best partner is listed.
        assert (listed.adds >= found.first.flatten() / n - 1e-6).all()
        assert len(sums) == n


def test_a_crop_with_itself_matches_every_place_with_itself() -> None:
    method = matcher()
    with torch.inference_mode():
        found = method.explain(images(1, 3).expand(2, -1, -1, -1))
    assert found.matches is not None
    plain = found.matches.part == 0
    assert torch.equal(found.matches.first[plain], found.matches.second[plain])
    assert torch.allclose(found.first, found.second, atol=1e-5)


def test_a_cosine_is_divided_term_by_term() -> None:
    maps = torch.randn(2, 5, 3, 2, generator=torch.Generator().manual_seed(0))
    found = cosine_explanation(maps)
    one, other = maps.double().flatten(2).unbind()
    f, g = one.mean(1), other.mean(1)
    for p in range(6):
        term = float(one[:, p] @ g / 6 / (f.norm() * g.norm()))
        assert float(found.first.flatten()[p]) == pytest.approx(term, abs=1e-6)
        pairs = [float(one[:, p] @ other[:, r] / 36 / (f.norm() * g.norm())) for r in range(6)]
        assert found.matches is not None
        assert int(found.matches.second[p]) == int(np.argmax(pairs))
        assert float(found.matches.adds[p]) == pytest.approx(max(pairs), abs=1e-6)
    assert found.score == pytest.approx(float(torch.cosine_similarity(f, g, dim=0)))


@pytest.mark.parametrize("kind", ["cosine", "difference"])
def test_places_that_change_places_take_their_shares_along(kind: str) -> None:
    random = torch.Generator().manual_seed(1)
    maps, order = torch.randn(2, 5, 4, 2, generator=random), torch.randperm(8, generator=random)
    slope = torch.randn(5, generator=random)
    moved = maps.clone()
    moved[0] = maps[0].flatten(1)[:, order].view(5, 4, 2)

    def explained(of: Tensor):
        if kind == "cosine":
            return cosine_explanation(of)
        return difference_explanation(of, slope, 0.5)

    before, after = explained(maps), explained(moved)
    assert torch.allclose(before.first.flatten()[order], after.first.flatten(), atol=1e-6)
    assert torch.allclose(before.second, after.second, atol=1e-6)
    assert before.score == pytest.approx(after.score)


class Brightness(Method):
    """Scores two crops by how bright one corner of both is."""

    Config = Settings
    recipe = {}  # noqa: RUF012

    def __init__(
        self, config: Settings, trunk: TrunkSettings, census: Census, size: tuple[int, int]
    ):
        super().__init__(config, trunk, census, size)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def embed(self, images: Tensor) -> Tensor:
        return self.scale * images[:, :, :8, :8].mean((1, 2, 3))[:, None]

    def score(self, queries: Tensor, gallery: Tensor) -> Tensor:
        return queries + gallery.T

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"none": batch.images.sum() * 0}


def test_a_method_without_an_explanation_of_its_own_loses_what_is_covered() -> None:
    method = Brightness(Settings(), TrunkSettings(), CENSUS, (64, 32)).eval()
    pixels = np.zeros((2, 64, 32, 3), np.uint8)
    pixels[:, :8, :8] = 255
    found = explain_pair(method, pixels)
    shares = np.array(found.first)
    assert found.sums == "no"
    assert found.grid == (8, 4)
    assert shares[0, 0] == pytest.approx(1 - pixels[0].mean() / 255, abs=1e-5)
    assert np.count_nonzero(np.abs(shares) > 1e-6) == 1
    assert not found.matches


def test_patches_cover_an_image_once() -> None:
    image = images(1)[0]
    hidden = covered(image, (4, 2))
    changed = (hidden != image).any(1)
    assert hidden.shape == (8, 3, 64, 32)
    assert torch.equal(changed.sum(0), torch.ones(64, 32, dtype=torch.int64))


def test_the_strongest_matches_are_told_with_their_places(method: Method) -> None:
    pixels = (images(2, 9).permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    found = explain_pair(method, pixels, lines=5)
    with torch.inference_mode():
        whole = method.explain(as_images(torch.from_numpy(pixels)))
    assert len(found.matches) <= 5
    assert [m.adds for m in found.matches] == sorted((m.adds for m in found.matches), reverse=True)
    if whole.matches is not None:
        n = whole.first.numel()
        cells = whole.matches.first * n + whole.matches.second
        sums = torch.zeros(n * n).index_add(0, cells, whole.matches.adds)
        positive = sums[sums > 0].sort(descending=True).values[:5]
        assert [m.adds for m in found.matches] == pytest.approx(positive.tolist(), rel=1e-4)
    for match in found.matches:
        for row, column in (match.first, match.second):
            assert 0 <= row < found.grid[0]
            assert 0 <= column < found.grid[1]
    assert Explained.model_validate_json(found.model_dump_json()) == found


def test_the_picture_shows_what_raises_and_what_lowers_a_score() -> None:
    grey = np.full((256, 128, 3), 128, np.uint8)
    shares = [[0.0] * 4 for _ in range(8)]
    first, second = [row[:] for row in shares], [row[:] for row in shares]
    first[0][0], second[7][3] = 2.0, -2.0
    shown = Explained(score=0.5, says="", grid=(8, 4), sums="each", constant=0, first=first,
                      second=second)  # fmt: skip
    sheet = np.asarray(picture(shown, grey, grey)).astype(int)

    def nearer(pixel: np.ndarray, one: np.ndarray, other: np.ndarray) -> bool:
        return bool(np.abs(pixel - one).sum() < np.abs(pixel - other).sum())

    left = 128 + (sheet.shape[1] - 256)
    assert nearer(sheet[8, 8], FOR, AGAINST)
    assert nearer(sheet[248, left + 120], AGAINST, FOR)
    assert (sheet[128, 64] == 128).all()
    gap = sheet[:256, 128:left]
    assert (gap == 255).all()
    matched = shown.model_copy(
        update={"matches": [Match(first=(2, 1), second=(5, 2), adds=1.0, parts=("x",))]}
    )
    drawn = np.asarray(picture(matched, grey, grey)).astype(int)[:256, 128:left]
    assert (drawn != 255).any()


def test_the_verb_writes_a_picture_and_says_the_score(tmp_path: Path) -> None:
    experiment = compose("qaconv_ms", settings("qaconv_ms", {}))
    save_trained(tmp_path / "run" / "best", experiment, CENSUS, matcher().state_dict())
    for name, image in zip("ab", images(2, 5), strict=True):
        pixels = (image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    places = [str(tmp_path / f"{name}.png") for name in "ab"]
    target = tmp_path / "out" / "x.png"
    answer = CliRunner().invoke(
        cli, ["explain", str(tmp_path / "run"), *places, "--to", str(target)]
    )
    assert answer.exit_code == 0, answer.output
    assert "score" in answer.output
    with Image.open(target) as shown:
        assert shown.size[1] > 256
    asked = ["explain", str(tmp_path / "run"), *places, "--to", str(tmp_path / "x.json")]
    assert CliRunner().invoke(cli, asked).exit_code == 0
    Explained.model_validate_json((tmp_path / "x.json").read_text())
    wrong = ["explain", str(tmp_path / "run"), *places, "--to", str(tmp_path / "x.txt")]
    assert ".png or .json" in str(CliRunner().invoke(cli, wrong).exception)
