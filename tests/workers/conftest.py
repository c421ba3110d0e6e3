"""Small datasets of real pictures, written with tarfile alone."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import pytest

from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.run import driver

EXAMPLES = Path(__file__).parents[2] / "examples" / "openclipart"

Members = dict[str, bytes]  # name -> content


@pytest.fixture(scope="session")
def pictures() -> list[Members]:
    """The members of some real pairs: KEY.jpg, KEY.txt and KEY.json."""
    pairs: dict[str, Members] = {}
    with tarfile.open(EXAMPLES / "00000.tar") as tar:
        for info in tar:
            key = info.name.partition(".")[0]
            if len(pairs) == 24 and key not in pairs:
                break
            file = tar.extractfile(info)
            assert file is not None
            pairs.setdefault(key, {})[info.name] = file.read()
    return list(pairs.values())


@pytest.fixture(scope="session")
def with_texts() -> Callable[[Members, list[str]], Members]:
    """The picture of a pair with other captions, the field texts of its KEY.json."""

    def told(members: Members, texts: list[str]) -> Members:
        image = next(name for name in members if not name.endswith(("txt", "json")))
        metadata = json.dumps({"texts": texts}).encode()
        return {image: members[image], f"{image.rpartition('.')[0]}.json": metadata}

    return told


@pytest.fixture(scope="session")
def write_tar() -> Callable[[Path, list[Members]], Path]:
    def write(path: Path, pairs: list[Members]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for members in pairs:
                for name, data in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        return path

    return write


@pytest.fixture
def dataset(tmp_path: Path, pictures: list[Members], write_tar: Callable) -> Path:
    """Three shards of 8 pairs."""
    for shard in range(3):
        write_tar(tmp_path / "dataset" / f"{shard:05}.tar", pictures[8 * shard : 8 * shard + 8])
    return tmp_path / "dataset"


@pytest.fixture
def spec(tmp_path: Path, dataset: Path, reference_folder: Path) -> ScoreSpec:
    return ScoreSpec(
        dataset=str(dataset),
        output=str(tmp_path / "cache"),
        reference=ReferenceSpec(model=f"local-dir:{reference_folder}"),
        dtype="float32",
        batch_size=4,
        error_budget=1.0,  # what becomes of failures is told by most tests, one tells of the budget
        metadata={},
    )


@pytest.fixture(scope="session")
def job_of(
    tmp_path_factory: pytest.TempPathFactory, write_tar: Callable, reference_folder: Path
) -> Callable[..., ScoreSpec]:
    """A job in a folder of its own, whose dataset has the pairs in three shards."""

    def made(name: str, pairs: list[Members], **fields: Any) -> ScoreSpec:
        root, each = tmp_path_factory.mktemp(name), len(pairs) // 3
        for shard in range(3):
            part = pairs[each * shard : each * (shard + 1)]
            write_tar(root / "dataset" / f"{shard:05}.tar", part)
        return ScoreSpec(
            dataset=str(root / "dataset"),
            output=str(root / "cache"),
            reference=ReferenceSpec(model=f"local-dir:{reference_folder}"),
            batch_size=4,
            metadata={},
            **fields,
        )

    return made


@pytest.fixture(scope="session")
def scored(
    job_of: Callable[..., ScoreSpec], pictures: list[Members], ray_address: str
) -> ScoreSpec:
    """A job that is done: three shards, of whose 24 pairs one has a damaged picture."""
    pairs = [dict(members) for members in pictures[:24]]
    picture = next(iter(pairs[10]))
    pairs[10][picture] = pairs[10][picture][:500]
    spec = job_of("scored", pairs, error_budget=1.0)
    driver.score(spec)
    return spec


@pytest.fixture
def crew_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode in this process, for tests of what is encoded and not of who does it."""
    monkeypatch.setattr(driver, "_crew", faults.crew_here)


@pytest.fixture
def scored_here(tmp_path: Path) -> Callable[[ScoreSpec], ScoreSpec]:
    """Score a job once more, elsewhere and in this process, where nothing comes between."""

    def score(spec: ScoreSpec) -> ScoreSpec:
        again = spec.model_copy(update={"output": str(tmp_path / "scored-here")})
        driver.score(again, here=True)
        return again

    return score


@pytest.fixture
def copied(tmp_path: Path, scored: ScoreSpec) -> ScoreSpec:
    """A copy of that job's dataset and cache, to be damaged."""
    shutil.copytree(Path(scored.dataset).parent, tmp_path / "copied")
    return scored.model_copy(
        update={
            "dataset": str(tmp_path / "copied" / "dataset"),
            "output": str(tmp_path / "copied" / "cache"),
        }
    )
