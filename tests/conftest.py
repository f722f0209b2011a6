"""One private Ray for the whole test session, started by the first test that asks for it."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# Time says nothing on a shared machine, and a run that fails must fail again.
# Two threads on small tensors wait for each other more than they compute.
torch.set_num_threads(1)

settings.register_profile("rayreid", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("rayreid")

# A cluster that the developer's shell is attached to is not ours to test on.
os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    from rayreid.session import session

    with session(cpus=4):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests that need Ray to one process, where several run them: one Ray is enough."""
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ray"))
