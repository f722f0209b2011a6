"""What a whole test session shares: one private Ray, one server that speaks S3."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from rayreid.data import storage
from tests.store import ObjectStore, serving_s3

# Time says nothing on a shared machine, and a run that fails must fail again.
# Two threads on small tensors wait for each other more than they compute.
torch.set_num_threads(1)

settings.register_profile("rayreid", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("rayreid")

# A cluster that the developer's shell is attached to is not ours to test on.
os.environ.pop("RAY_ADDRESS", None)
# By default Ray's workers give way to all else: here, to the tests that wait for them.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(scope="session")
def ray_session(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.config.getoption("loadgroup", False):
        ids = [item.nodeid for item in request.session.items]
        assert any(one.endswith("@ray") for one in ids), "xdist made nothing of the groups"
    from rayreid.session import session  # before ray: it sets what ray reads on import

    # isort: split
    import ray

    with session(cpus=4):
        node = ray._private.worker._global_node
        started = [each.process for several in node.all_processes.values() for each in several]
        yield
    # Ray kills its processes without waiting for them, which Python tells as a leak.
    for process in started:
        process.wait(60)


@pytest.fixture(scope="session")
def store_server() -> Iterator[ObjectStore]:
    with serving_s3() as server:
        yield server


@pytest.fixture
def object_store(
    store_server: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectStore]:
    """Return the server, with the environment's credentials set for it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in store_server.environment.items():
        monkeypatch.setenv(name, value)
    storage._system.cache_clear()
    yield store_server
    storage._system.cache_clear()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests that need Ray to one process, where several run them: one Ray is enough."""
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ray"))
