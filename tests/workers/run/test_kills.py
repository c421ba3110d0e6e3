"""A run that is killed at each step around each file that it writes, and then run again."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import STEPS
from killed import killing

from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.reference_output import ReferenceOutput
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.maintain.verify import verify

WRITTEN = (
    "lease.json",
    "progress.json",
    "plan.json",
    "shards/00001.tar.parquet",
    "index.parquet",
    "manifest.json",
)
Run = Callable[..., int]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Score in a process that is killed at a step of a file; gives how that process ended."""
    with killing() as do:

        def ask(spec: ScoreSpec, step: str | None = None, name: str | None = None) -> int:
            file = os.path.normpath(f"{spec.output}/{name}")
            return do("score", spec.model_dump(mode="json"), at=step and (step, file))

        yield ask


@pytest.fixture(scope="module")
def undisturbed(job_of: Callable[..., ScoreSpec], pictures: list, run: Run) -> ScoreSpec:
    """A job of three shards that is done."""
    spec = job_of("undisturbed", pictures[:12])
    assert run(spec) == 0
    return spec


def files(spec: ScoreSpec, pattern: str = "*") -> dict[str, tuple[int, int]]:
    """Name -> inode and modification time: what changes when a file is written again."""
    root = Path(spec.output)
    return {
        str(file.relative_to(root)): (file.stat().st_ino, file.stat().st_mtime_ns)
        for file in root.rglob(pattern)
        if file.is_file()
    }


def contents(spec: ScoreSpec) -> dict[str, bytes]:
    root = Path(spec.output)
    return {name: (root / name).read_bytes() for name in files(spec, "*.parquet")}


def check_going_on(spec: ScoreSpec, undisturbed: ScoreSpec, run: Run) -> None:
    """Run it again: as if nothing had been, and without doing again what was done."""
    in_place = files(spec, "*.tar.parquet")
    assert run(spec) == 0
    assert contents(spec) == contents(undisturbed)
    assert in_place.items() <= files(spec).items()
    assert files(spec).keys() == files(undisturbed).keys()  # so nothing is left over
    report = verify(spec.output)
    assert (report.findings, report.shards, report.rows) == ([], 3, 12)


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_at_a_step_goes_on(
    step: str, name: str, undisturbed: ScoreSpec, tmp_path: Path, run: Run
) -> None:
    spec = undisturbed.model_copy(update={"output": str(tmp_path / "cache")})
    assert os.WTERMSIG(run(spec, step, name)) == signal.SIGKILL
    assert Path(spec.output, name).exists() == (step == "after rename")
    assert Path(spec.output, "manifest.json").exists() == (
        (step, name) == ("after rename", "manifest.json")
    )
    check_going_on(spec, undisturbed, run)


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("before delete", "manifest.json"),
        ("after delete", "manifest.json"),
        ("after rename", "index.parquet"),
        ("after rename", "manifest.json"),
    ],
)
def test_a_cache_that_grows_is_never_half_committed(
    step: str, name: str, undisturbed: ScoreSpec, tmp_path: Path, run: Run
) -> None:
    """A manifest names the index beside it, or is not there."""
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    for shard in Path(undisturbed.dataset).iterdir():
        shutil.copy2(shard, dataset)
    last = dataset / "00002.tar"
    last.rename(tmp_path / "aside")
    change = {"dataset": str(dataset), "output": str(tmp_path / "cache")}
    spec = undisturbed.model_copy(update=change)
    assert run(spec) == 0
    (tmp_path / "aside").rename(last)
    assert os.WTERMSIG(run(spec, step, name)) == signal.SIGKILL
    if Path(spec.output, "manifest.json").exists():
        assert verify(spec.output).findings == []
    check_going_on(spec, undisturbed, run)


@pytest.mark.parametrize(
    ("step", "file"),
    [
        ("after rename", "plan.json"),
        ("before rename", "../second/shards/00001.tar.parquet"),
        ("after rename", "../second/shards/00001.tar.parquet"),
        ("after rename", "shards/00001.tar.parquet"),
        ("after rename", "manifest.json"),
        ("after rename", "../second/index.parquet"),
    ],
)
def test_a_run_of_two_references_goes_on(
    of_two: ScoreSpec, run: Run, tmp_path: Path, step: str, file: str
) -> None:
    """One of them may be further than the other, up to a cache that is committed alone."""
    other = of_two.also[0].model_copy(update={"output": str(tmp_path / "second")})
    spec = of_two.model_copy(update={"output": str(tmp_path / "first"), "also": [other]})
    assert os.WTERMSIG(run(spec, step, file)) == signal.SIGKILL
    in_place = [files(each, "*.tar.parquet") for each in spec.each]
    assert run(spec) == 0
    for before, each, done in zip(in_place, spec.each, of_two.each, strict=True):
        assert contents(each) == contents(done)
        assert before.items() <= files(each, "*.tar.parquet").items()
        assert verify(each.output, deep=True).ok


@pytest.fixture(scope="module")
def of_two(undisturbed: ScoreSpec, run: Run, make_reference: Callable[[int], Path]) -> ScoreSpec:
    """A job of two references whose caches were made one after the other."""
    root = Path(undisturbed.output).parent
    reference = ReferenceSpec(model=f"local-dir:{make_reference(1)}")
    other = ReferenceOutput(reference=reference, output=str(root / "other"))
    both = undisturbed.model_copy(update={"also": [other]})
    assert run(both.each[1]) == 0
    return both
