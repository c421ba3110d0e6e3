"""A disk that fills up, that becomes another's, or that fails for a while, under a run."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import faults
import pytest
from faults import FaultyDisk, crew_here

from rhocache_schemas import storage
from rhocache_schemas.cache.documents import Progress
from rhocache_schemas.errors import StorageError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.cluster import actor_pool
from rhocache_workers.cluster.actor import EncoderActor
from rhocache_workers.maintain.verify import verify
from rhocache_workers.run import driver, progress
from rhocache_workers.run.driver import score


def shard_files(spec: ScoreSpec) -> dict[str, tuple[int, int]]:
    """Name -> inode and modification time: what changes when a file is written again."""
    files = Path(spec.output, "shards").glob("*.parquet")
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def contents(spec: ScoreSpec) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(spec.output).rglob("*.parquet")}


def after_one_shard(then: Callable[[], object]) -> Callable[[Progress], None]:
    """A listener that does something once, when a first shard is done."""
    done = False

    def listen(seen: Progress) -> None:
        nonlocal done
        if seen.shards_committed and not done:
            done = True
            then()

    return listen


@pytest.fixture
def told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, told_at_once: None) -> None:
    """Runs without Ray, one step after the other."""
    monkeypatch.setattr(driver, "_crew", crew_here)


def check_whole(spec: ScoreSpec, undisturbed: ScoreSpec) -> None:
    assert contents(spec) == contents(undisturbed)
    assert verify(spec.output).findings == []
    assert not list(Path(spec.output).rglob(f"*{storage.TEMPORARY}"))


def check_going_on(spec: ScoreSpec, undisturbed: ScoreSpec) -> None:
    """Run it again: with the same end, and without doing again what was done."""
    in_place = shard_files(spec)
    assert len(in_place) > 0
    assert score(spec).rows == 24
    assert in_place.items() <= shard_files(spec).items()
    check_whole(spec, undisturbed)


def test_a_disk_that_fills_up(scored: ScoreSpec, small_disk: Path, told_at_once: None) -> None:
    spec = scored.model_copy(update={"output": str(small_disk / "cache")})
    filler = small_disk / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(512)):
                pass

    with pytest.raises(StorageError, match=f"{spec.output}/.*: No space left on device$") as caught:
        score(spec, on_progress=after_one_shard(fill))
    assert caught.value.exit_code == 1
    assert not Path(spec.output, "manifest.json").exists()
    filler.unlink()
    check_going_on(spec, scored)


@pytest.fixture
def immutable(spec: ScoreSpec) -> Iterator[Callable[[], object]]:
    """Take everyone's right, root's too, to write shard files."""
    folder = Path(spec.output, "shards")

    def change(mode: str) -> int:
        return subprocess.run(["chattr", mode, folder], capture_output=True, check=False).returncode

    folder.mkdir(parents=True)
    if change("+i"):
        pytest.skip("chattr needs root, and a file system that has it")
    change("-i")
    yield lambda: change("+i")
    change("-i")


def test_a_cache_that_may_not_be_written_any_more(
    spec: ScoreSpec, immutable: Callable[[], object], tmp_path: Path, here: None
) -> None:
    file = f"{spec.output}/shards/00001.tar.parquet"
    with pytest.raises(StorageError, match=f"cannot write {file}: Operation not permitted$"):
        score(spec, on_progress=after_one_shard(immutable))
    fault = Progress.read(f"{spec.output}/progress.json").fault
    assert fault is not None
    assert fault.code == "storage"
    subprocess.run(["chattr", "-i", Path(spec.output, "shards")], check=True)
    undisturbed = spec.model_copy(update={"output": str(tmp_path / "undisturbed")})
    score(undisturbed)
    check_going_on(spec, undisturbed)


def test_what_only_tells_or_watches_may_fail_for_a_while(
    spec: ScoreSpec, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The progress file always, and the lease a few times while shards are encoded."""
    seen: list[Progress] = []
    failures: list[str] = []

    def strike(step: str, path: str) -> None:
        name = Path(path).name
        encoding = bool(seen) and seen[-1].phase == "encoding"
        few = name == "lease.json" and encoding and failures.count(name) < 5
        if name == "progress.json" or few:
            failures.append(name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(storage, "resolve", storage.resolve)
    FaultyDisk(strike).install()
    assert score(spec, on_progress=seen.append).rows == 24
    monkeypatch.undo()
    assert failures.count("lease.json") == 5
    assert failures.count("progress.json") >= 4
    assert not Path(spec.output, "progress.json").exists()
    assert verify(spec.output).findings == []


def test_an_encoder_that_dies_while_it_commits(
    scored: ScoreSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run goes on with another, and leaves nothing of the dead ones."""
    import ray

    spec = scored.model_copy(update={"output": str(tmp_path / "cache")})
    once = tmp_path / "once"
    once.mkdir()

    class Mortal(EncoderActor):
        def load(self, batch_sizes: dict[str, int]):
            def strike(step: str, path: str) -> None:
                if (step, Path(path).name) in (
                    ("half-written", "00000.tar.parquet"),
                    ("after rename", "00002.tar.parquet"),
                ):
                    with suppress(FileExistsError):
                        (once / step).touch(exist_ok=False)
                        faults.kill_at(step, path)(step, path)

            FaultyDisk(strike).install()
            yield from super().load(batch_sizes)

    ray.cloudpickle.register_pickle_by_value(faults)
    monkeypatch.setattr(actor_pool, "EncoderActor", Mortal)
    assert score(spec).rows == 24
    ray.cloudpickle.unregister_pickle_by_value(faults)
    assert {file.name for file in once.iterdir()} == {"half-written", "after rename"}
    check_whole(spec, scored)
