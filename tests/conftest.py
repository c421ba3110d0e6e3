"""What the tests of several rooms share: one small Ray cluster and small references."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import pytest

# Several tests run at once, each in several processes, and threads that wait for one another keep
# cores from the rest. torch reads this when it is imported.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
# Ray's own 15 lets workers starve beside other tests. It is read by every Ray that is started.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 so Ray has it

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

    context = ray.init(
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
