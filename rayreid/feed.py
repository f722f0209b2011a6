"""What a learner is fed: batches of the sources, chosen by the sampler, and of a target."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributed import broadcast

from rayreid.batch import Batch, Census, Crops, Domain
from rayreid.data.graph_sampling import GraphSampler
from rayreid.data.loading import LoadingSettings, Pixels, TrainingSet, UnlabelledSet, loaded
from rayreid.data.sampling import IdentitySampler, unlabelled_batches
from rayreid.data.views import as_images, varied
from rayreid.experiment import Experiment
from rayreid.gallery import embed_crops
from rayreid.matching.tiles import score_all
from rayreid.method import Method


@dataclass(frozen=True)
class TargetCrops:
    """A target's training crops without their labels, as images on a device (`Unlabelled`)."""

    pixels: Pixels
    cameras: Int64[np.ndarray, " n"]
    device: torch.device

    @classmethod
    def of(cls, crops: Crops, loading: LoadingSettings, device: torch.device) -> "TargetCrops":
        """Return the pictures of some crops at a resolution."""
        return cls(Pixels(crops.images, loading), crops.cameras, device)

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.pixels)

    def batches(self, size: int) -> Iterator[Float[Tensor, "b 3 height width"]]:
        """Yield all crops in order, unvaried."""
        for start in range(0, len(self), size):
            indices = np.arange(start, min(start + size, len(self)))
            yield as_images(torch.from_numpy(self.pixels[indices]).to(self.device))


class Feed:
    """The batches of a training run: which crops, read how, varied how, on which device.

    Raises `ValueError` for sources that cannot be learnt from, and where a method that adapts
    has no target, or one that does not has one.
    """

    def __init__(
        self,
        experiment: Experiment,
        sources: Sequence[Domain],
        target: Crops | None,
        *,
        rank: int,
        world: int,
        device: torch.device,
    ):
        experiment.refuse_unless_adapting(target is not None)
        self.experiment, self.rank, self.world, self.device = experiment, rank, world, device
        self.crops = TrainingSet(sources, experiment.loading)
        identities = experiment.scaling.identities(experiment.sampling.identities, world)
        self.sampling = experiment.sampling.model_copy(update={"identities": identities})
        kind = GraphSampler if experiment.sampling.kind == "graph" else IdentitySampler
        self.sampler: GraphSampler | IdentitySampler = kind(
            self.sampling,
            self.crops.identities,
            self.crops.domains,
            self.crops.names,
            cameras=self.crops.cameras,
            seed=experiment.seed,
            rank=rank,
            world=world,
        )
        self.steps = experiment.steps_per_epoch or self.sampler.steps
        self.target: TargetCrops | None = None
        if target is not None:
            if len(target) < world:
                raise ValueError(f"target {target.domain} has no training crops to adapt to")
            self.target = TargetCrops.of(target, experiment.loading, device)

    @property
    def census(self) -> Census:
        """Return who is in the training set."""
        return self.crops.census

    def epoch(self, epoch: int, method: Method) -> Iterator[tuple[Tensor, ...]]:
        """Return the raw batches of an epoch: what `batch` makes a `Batch` of."""
        if isinstance(self.sampler, GraphSampler):
            chosen = self.sampler.epoch(epoch, self.steps, self._graph(epoch, method))
        else:
            chosen = self.sampler.epoch(epoch, self.steps)
        return self._read(epoch, chosen)

    def _read(self, epoch: int, chosen: Iterator[np.ndarray]) -> Iterator[tuple[Tensor, ...]]:
        loading = self.experiment.loading
        labelled = loaded(self.crops, chosen, loading)
        if self.target is None:
            yield from labelled
            return
        others = unlabelled_batches(
            len(self.target),
            self.sampling.identities * self.sampling.crops * len(self.crops.names),
            self.steps,
            seed=self.experiment.seed,
            epoch=epoch,
            rank=self.rank,
            world=self.world,
        )
        unlabelled = loaded(UnlabelledSet(self.target.pixels), others, loading)
        for source, target in zip(labelled, unlabelled, strict=True):
            yield *source, *target

    def batch(self, raw: tuple[Tensor, ...], views: torch.Generator) -> Batch:
        """Return a raw batch as varied images and labels on the device."""
        pixels, identities, cameras, domains, *target = (
            x.to(self.device, non_blocking=True) for x in raw
        )
        settings = self.experiment.views
        images = varied(pixels, settings, views)
        if not target:
            return Batch(images, identities, cameras, domains)
        others = varied(target[0], settings, views)
        return Batch(images, identities, cameras, domains, others, target[1])

    def _graph(self, epoch: int, method: Method) -> list[np.ndarray]:
        """Return the scores among the identities of each domain, computed once for all ranks."""
        assert isinstance(self.sampler, GraphSampler)
        graph = []
        for indices in self.sampler.representatives(epoch):
            scores = torch.empty(len(indices), len(indices))
            if self.rank == 0:
                maps = embed_crops(method, _Chosen(self.crops, indices))
                scores = score_all(method, maps, maps)
            if self.world > 1:
                scores = scores.to(self.device)
                broadcast(scores, 0)
            graph.append(scores.cpu().numpy())
        return graph


class _Chosen(Pixels):
    """Some crops of a training set, renumbered."""

    def __init__(self, crops: TrainingSet, indices: np.ndarray):
        self.crops, self.indices = crops, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        chosen: np.ndarray = self.crops[self.indices[indices]][0].numpy()
        return chosen
