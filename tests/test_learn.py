"""The training loop on a miniature: what it yields, and that it resumes to the bit."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from rayreid.batch import Batch, Crops, Domain
from rayreid.data.sampling import IdentitySampler
from rayreid.data.synthetic import draw_domain
from rayreid.experiment import Experiment, compose
from rayreid.gallery import Target
from rayreid.learn import Epoch, learn
from rayreid.learner import STATE
from rayreid.nn.optimiser import rate_after
from tests.miniature import MINIATURE

SIZE = {"train_people": 6, "test_people": 4, "cameras": 2, "crops": 2, "height": 64, "width": 32}
NAMES = ("snow", "subway")


@pytest.fixture(scope="module")
def domains() -> list[Domain]:
    return [draw_domain(name, **SIZE) for name in NAMES]


def experiment(method: str = "gmn", **assignments: object) -> Experiment:
    return compose(
        method,
        MINIATURE,
        {"epochs": 4},
        {"config.hidden": 8, "config.dropout_warmup_epochs": 1} if method == "gmn" else {},
        {path.replace("__", "."): value for path, value in assignments.items()},
    )


def weights(epoch: Epoch) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in epoch.learner.averaged.state_dict().items()}


@pytest.mark.parametrize(
    "assignments",
    [
        {},
        {"optimiser__ema": 0.9, "optimiser__name": "sgd", "precision": "fp32"},
        {"optimiser__name": "adamw", "config__dropout_site": "trunk"},
    ],
)
def test_resumed_equals_uninterrupted_bit_for_bit(
    domains: list[Domain], tmp_path: Path, assignments: dict[str, object]
) -> None:
    made = experiment(**assignments)
    straight = list(learn(made, domains))
    (interrupted,) = islice(learn(made, domains), 1, 2)
    interrupted.learner.save(tmp_path)
    torch.rand(5)  # Whatever else drew random numbers meanwhile must not matter.
    resumed = list(learn(made, domains, state=tmp_path))
    assert [epoch.number for epoch in resumed] == [3, 4]
    for one, other in zip(straight[2:], resumed, strict=True):
        assert one.losses == other.losses
    for name, value in weights(straight[-1]).items():
        assert torch.equal(value, weights(resumed[-1])[name]), name


def test_one_seed_gives_one_run_whatever_runs_beside_it(domains: list[Domain]) -> None:
    made = experiment(epochs=2)
    alone = [epoch.losses for epoch in learn(made, domains)]
    other = learn(experiment(epochs=2, seed=1), domains)
    side_by_side = [epoch.losses for epoch, _ in zip(learn(made, domains), other, strict=True)]
    assert alone == side_by_side


def test_loader_processes_change_nothing(domains: list[Domain]) -> None:
    here, there = (
        [epoch.losses for epoch in learn(experiment(epochs=2, loading__workers=n), domains)]
        for n in (0, 2)
    )
    assert here == there


def test_losses_fall(domains: list[Domain]) -> None:
    made = experiment("baseline", epochs=6, steps_per_epoch=8, optimiser__lr=3e-3)
    epochs = list(learn(made, domains))
    assert epochs[-1].losses["identity"] < 0.9 * epochs[0].losses["identity"]
    assert all(0 <= epoch.waiting < 1 and epoch.images_per_second > 0 for epoch in epochs)


def test_a_state_of_another_experiment_is_refused(domains: list[Domain], tmp_path: Path) -> None:
    next(learn(experiment(), domains)).learner.save(tmp_path)
    with pytest.raises(ValueError, match="give the run another name"):
        next(learn(experiment(seed=2), domains, state=tmp_path))
    assert (tmp_path / STATE).read_bytes()[:1] != b"\x80", "a pickle"


def test_a_step_without_a_finite_gradient_is_skipped_and_counted(
    domains: list[Domain], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = experiment("baseline", epochs=1, steps_per_epoch=3)
    spoilt = iter([True, False, False])
    plain = made.Method.forward

    def forward(self: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        # NaN input spoils the running statistics of the normalisations as well as the losses.
        return plain(
            self, replace(batch, images=batch.images * float("nan")) if next(spoilt) else batch
        )

    monkeypatch.setattr(made.Method, "forward", forward)
    (epoch,) = learn(made, domains)
    assert epoch.skipped == 1
    assert all(np.isfinite(value) for value in epoch.losses.values())
    assert all(value.isfinite().all() for value in weights(epoch).values())


def test_an_epoch_without_any_finite_gradient_is_an_error(
    domains: list[Domain], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = experiment("baseline")
    plain = made.Method.forward
    monkeypatch.setattr(
        made.Method,
        "forward",
        lambda self, batch: {k: v * float("nan") for k, v in plain(self, batch).items()},
    )
    with pytest.raises(FloatingPointError, match=r"no step of epoch 1 .* lower optimiser\.lr"):
        next(learn(made, domains))


def test_gradients_are_clipped(domains: list[Domain]) -> None:
    def norm_after(clip: float) -> float:
        made = experiment(
            "baseline", epochs=1, steps_per_epoch=1, optimiser__clip=clip, optimiser__name="sgd",
            optimiser__lr=1.0, optimiser__weight_decay=0.0, optimiser__warmup=0.0,
            optimiser__schedule="cosine", precision="fp32",
        )  # fmt: skip
        (epoch,) = learn(made, domains)
        grads = [p.grad for p in epoch.learner.method.parameters() if p.grad is not None]
        return torch.stack([grad.norm() for grad in grads]).norm().item()

    assert norm_after(0.01) == pytest.approx(0.01, rel=1e-3)
    assert norm_after(0.0) > 0.1


def test_targets_are_ranked_when_due(domains: list[Domain]) -> None:
    made = experiment("baseline", epochs=3, steps_per_epoch=1)
    target = Target(domains[0], made.loading)
    epochs = list(learn(made, domains, targets=[target], rank_every=2))
    assert [bool(epoch.rankings) for epoch in epochs] == [False, True, True]
    assert set(epochs[-1].metrics()) >= {"epoch", "mAP/snow", "rank1/snow", "loss/identity"}


def test_a_source_without_a_training_split_is_named(domains: list[Domain]) -> None:
    empty = Crops("snow", [], np.empty(0, np.int64), np.empty(0, np.int64))
    only_target = Domain("snow", empty, domains[0].query, domains[0].gallery)
    with pytest.raises(ValueError, match="source snow has no crops to learn from"):
        next(learn(experiment(), [only_target, domains[1]]))


def test_the_average_lags_behind_the_weights(domains: list[Domain]) -> None:
    (*_, last) = learn(experiment(optimiser__ema=0.99), domains)
    learner = last.learner
    pairs = zip(learner.averaged.parameters(), learner.method.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    for (name, a), b in zip(
        learner.averaged.named_buffers(), learner.method.buffers(), strict=True
    ):
        assert torch.equal(a, b), name


class TestRate:
    def rates(self, **settings: object) -> list[float]:
        made = experiment(**{f"optimiser__{name}": value for name, value in settings.items()})
        return [rate_after(made.optimiser, done / 300) for done in range(300)]

    def test_steps_fall_to_a_tenth_after_each_third(self) -> None:
        rates = self.rates(schedule="steps", warmup=0.0)
        assert [rates[0], rates[99]] == [1.0, 1.0]
        assert [rates[100], rates[199]] == pytest.approx([0.1, 0.1])
        assert [rates[200], rates[299]] == pytest.approx([0.01, 0.01])

    def test_cosine_falls_to_nothing(self) -> None:
        rates = self.rates(schedule="cosine", warmup=0.0)
        assert rates == sorted(rates, reverse=True)
        assert rates[150] == pytest.approx(0.5)
        assert rates[-1] < 1e-3

    def test_one_cycle_peaks_after_three_tenths(self) -> None:
        rates = self.rates(schedule="one_cycle")
        assert rates.index(max(rates)) == 90
        assert max(rates) == pytest.approx(1)
        assert rates[0] == pytest.approx(0.04)
        assert rates[-1] < 1e-3

    def test_warm_up_rises_from_a_hundredth(self) -> None:
        rates = self.rates(schedule="steps", warmup=0.1)
        assert rates[0] == pytest.approx(0.01)
        assert rates[:31] == sorted(rates[:31])
        assert rates[30] == pytest.approx(1)


def test_the_pairs_are_perturbed_once_the_warm_up_is_over(
    domains: list[Domain], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = experiment(epochs=4, config__dropout_warmup_epochs=2)
    plain, seen = made.Method.forward, []

    def forward(self: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        seen.append((self.perturbing, self.training))
        return plain(self, batch)

    monkeypatch.setattr(made.Method, "forward", forward)
    target = Target(domains[0], made.loading)
    # Ranking between the epochs must hand the method back in training mode.
    by_epoch = [seen[-2:] for _ in learn(made, domains, targets=[target])]
    assert by_epoch == [[(False, True)] * 2] * 2 + [[(True, True)] * 2] * 2


def test_a_resumed_run_knows_that_the_warm_up_is_over(
    domains: list[Domain], tmp_path: Path
) -> None:
    made = experiment(config__dropout_warmup_epochs=2)
    (interrupted,) = islice(learn(made, domains), 2, 3)
    interrupted.learner.save(tmp_path)
    assert next(learn(made, domains, state=tmp_path)).learner.method.perturbing


@pytest.mark.parametrize("warmup", [0.0, 0.5])
@pytest.mark.parametrize("schedule", ["steps", "cosine", "one_cycle"])
def test_an_epoch_tells_the_rate_of_its_last_step(
    domains: list[Domain], schedule: str, warmup: float
) -> None:
    made = experiment(
        "baseline", epochs=6, optimiser__lr=2e-3, optimiser__schedule=schedule,
        optimiser__warmup=warmup,
    )  # fmt: skip

    def expected(step: int) -> float:
        done = step / 12
        if schedule == "one_cycle":
            if done < 0.3:
                return 2e-3 * (0.04 + 0.96 * (1 - np.cos(np.pi * done / 0.3)) / 2)
            return 2e-3 * (1 + np.cos(np.pi * (done - 0.3) / 0.7)) / 2
        fall = [1, 0.1, 0.01][step // 4] if schedule == "steps" else (1 + np.cos(np.pi * done)) / 2
        rise = 0.01 + 0.99 * done / warmup if done < warmup else 1
        return 2e-3 * fall * rise

    for epoch in learn(made, domains):
        assert epoch.lr == pytest.approx(expected(2 * epoch.number - 1), rel=1e-6)
        # What is told is what the optimiser was given.
        assert {group["lr"] for group in epoch.learner.optimiser.param_groups} == {epoch.lr}


class TestRandomNumbers:
    """Every rank varies the same crops, so that only the random numbers can differ."""

    @pytest.fixture
    def seen(
        self, domains: list[Domain], monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., list[list[tuple[bytes, bytes]]]]:
        method = experiment("baseline").Method
        plain, steps = method.forward, []

        def forward(self: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
            # The generator's state is what a method's own random numbers, as of DP, come from.
            steps.append((batch.images.numpy().tobytes(), torch.get_rng_state().numpy().tobytes()))
            return plain(self, batch)

        def epoch(_: IdentitySampler, __: int, steps: int) -> Iterator[np.ndarray]:
            yield from [np.array([0, 1, 4, 5, 24, 25, 28, 29])] * steps

        monkeypatch.setattr(method, "forward", forward)
        monkeypatch.setattr(IdentitySampler, "epoch", epoch)

        def run(rank: int = 0, **assignments: object) -> list[list[tuple[bytes, bytes]]]:
            """Return the images and the random state of each step, by epoch."""
            made = experiment("baseline", epochs=2, **assignments)
            steps.clear()
            return [steps[-2:] for _ in learn(made, domains, rank=rank)]

        return run

    def test_every_step_of_every_epoch_and_rank_has_its_own_views(
        self, seen: Callable[..., list[list[tuple[bytes, bytes]]]]
    ) -> None:
        runs = [seen(), seen(rank=1), seen(seed=1)]
        views = [images for run in runs for epoch in run for images, _ in epoch]
        assert len(set(views)) == len(views) == 12

    def test_every_epoch_and_rank_has_its_own_perturbations(
        self, seen: Callable[..., list[list[tuple[bytes, bytes]]]]
    ) -> None:
        runs = [seen(), seen(rank=1), seen(seed=1)]
        states = [epoch[0][1] for run in runs for epoch in run]
        assert len(set(states)) == len(states) == 6

    def test_they_repeat_for_the_same_seed_and_rank(
        self, seen: Callable[..., list[list[tuple[bytes, bytes]]]]
    ) -> None:
        assert seen() == seen()
        assert seen(rank=1) == seen(rank=1)

    def test_views_switched_off_leave_the_crops_alone(
        self, domains: list[Domain], seen: Callable[..., list[list[tuple[bytes, bytes]]]]
    ) -> None:
        crops = np.concatenate([domain.train.images for domain in domains])
        chosen = crops[[0, 1, 4, 5, 24, 25, 28, 29]].transpose(0, 3, 1, 2)
        expected = (chosen.astype(np.float32) / 255).tobytes()
        names = ("flip", "shift", "brightness", "contrast", "saturation", "erasing")
        runs = seen(**{f"views__{name}": 0.0 for name in names})
        assert {images for epoch in runs for images, _ in epoch} == {expected}
