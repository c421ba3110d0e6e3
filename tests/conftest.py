"""What the tests of several rooms share: one small Ray cluster and small references."""

import contextlib
import gc
import inspect
import json
import logging
import os
import subprocess
from collections.abc import Callable, Generator, Iterator
from copy import deepcopy
from pathlib import Path

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, settings
from tenacity import Retrying, stop_after_attempt

# Several tests run at once, each in several processes, and threads that wait for one another keep
# cores from the rest. torch reads this when it is imported.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
# Read by every Ray that is started. Its own niceness of 15 lets workers starve beside other tests.
# Its limits of time and memory are for clusters, where what is late is broken: here the machine is
# busy with other things, and pytest's own limit ends what hangs.
os.environ |= {
    "RAY_worker_niceness": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_gcs_server_port_wait_time_s": "600",
    "RAY_gcs_server_request_timeout_seconds": "600",
    "RAY_health_check_timeout_ms": "600000",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "600",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
}
# Of every request that names none.
_limits = inspect.signature(httpx.get).parameters["timeout"].default
_limits.connect = _limits.read = _limits.write = _limits.pool = None
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
# As tests/startup has it for the processes that tests start, here until all tests are imported.
gc.disable()
_STARTUP = str(Path(__file__).with_name("startup"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_STARTUP, os.environ.get("PYTHONPATH")]))


# The files that take longest, to begin with: the last core to be busy is then not busy for long.
LONGEST = [
    "service/test_lifecycle.py",
    "client/commands/test_train_launchers.py",
    "workers/cluster/test_cluster.py",
    "service/test_replicas.py",
    "system/test_steering.py",
    "workers/run/test_driver.py",
    "service/http/test_openapi.py",
    "workers/run/test_s3.py",
    "workers/encode/test_decode.py",
    "trainer/test_dropin.py",
    "trainer/training/test_loop.py",
    "workers/encode/test_poison.py",
    "client/test_cli.py",
    "trainer/distributed/test_collectives.py",
    "client/commands/test_training.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _one_tests_logging() -> Iterator[None]:
    """What a test (or a command that it runs in this process) sets is not the next one's."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


_HAS_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[_HAS_FAILED] = item.stash.get(_HAS_FAILED, False) or report.failed
    return report


@pytest.fixture(autouse=True)
def _failed_tests_end_what_they_started(request: pytest.FixtureRequest) -> Iterator[None]:
    """Else their servers and drivers run on beside all other tests, and the suite never ends."""
    before = set(psutil.pids())
    yield
    if not request.node.stash.get(_HAS_FAILED, False):
        return
    for child in psutil.Process().children(recursive=True):
        if child.pid in before:
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            # multiprocessing's own processes are for later tests too.
            if "multiprocessing" not in " ".join(child.cmdline()):
                child.kill()


TINY = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 64,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}


@pytest.fixture(scope="session")
def make_reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Export a CLIP with random weights of a seed as an open_clip ``local-dir``."""

    def make(seed: int) -> Path:
        import torch
        from open_clip import CLIP
        from safetensors.torch import save_file

        folder = tmp_path_factory.mktemp(f"reference-{seed}-")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = CLIP(**deepcopy(TINY))
        save_file(model.state_dict(), str(folder / "open_clip_model.safetensors"))
        config = {"model_cfg": TINY, "preprocess_cfg": {}}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        return folder

    return make


@pytest.fixture(scope="session")
def reference_folder(make_reference: Callable[[int], Path]) -> Path:
    return make_reference(0)


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of a Ray cluster of two cores, which this process has joined."""
    import ray

    # A node whose own processes take more than 15 s to start ends itself.
    context = Retrying(stop=stop_after_attempt(10), reraise=True)(
        ray.init,
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 << 20,
    )
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)
