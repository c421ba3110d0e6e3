"""A job of several references, of which each cache is what a job of its own makes."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from rhocache_schemas.cache.documents import Progress
from rhocache_schemas.cache.lease import Lease
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import CacheBusy, FingerprintMismatch, InvalidInput, UriNotAllowed
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.reference_output import ReferenceOutput
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.encode.decode import ThreadDecoder
from rhocache_workers.maintain.verify import verify
from rhocache_workers.run import driver
from rhocache_workers.run.driver import score

DRAWN = {"count": 3, "scale": [0.5, 1.0], "seed": 7}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, reference_folder: Path) -> Path:
    """A reference of other pictures, captions and dimensions than those of conftest."""
    import torch
    from open_clip import CLIP
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("wide")
    config = json.loads((reference_folder / "open_clip_config.json").read_text())["model_cfg"]
    config["embed_dim"] = 48
    config["vision_cfg"]["image_size"] = 48
    config["text_cfg"]["context_length"] = 16
    with torch.random.fork_rng():
        torch.manual_seed(5)
        save_file(CLIP(**deepcopy(config)).state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    (folder / "open_clip_config.json").write_text(text)
    return folder


@pytest.fixture
def several(
    spec: ScoreSpec, tmp_path: Path, wide: Path, make_reference: Callable[[int], Path]
) -> ScoreSpec:
    """A job of three references, two of which take the same pictures; one picture is damaged."""
    tar = Path(spec.dataset, "00001.tar")
    data = tar.read_bytes()
    at = data.index(b"\xff\xd8\xff")
    tar.write_bytes(data[: at + 3] + bytes(400) + data[at + 403 :])
    others = {"wide": wide, "alike": make_reference(1)}
    also = [
        ReferenceOutput(
            reference=ReferenceSpec(model=f"local-dir:{folder}"), output=str(tmp_path / name)
        )
        for name, folder in others.items()
    ]
    return spec.model_copy(update={"also": also})


@pytest.fixture
def alone(tmp_path: Path) -> Callable[[ScoreSpec], list[dict[str, Any]]]:
    """What jobs of their own make of each reference."""

    def made(job: ScoreSpec) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for number, each in enumerate(job.each):
            own = each.model_copy(update={"output": str(tmp_path / f"alone-{number}")})
            score(own, here=True)
            found.append(contents(own.output))
        return found

    return made


def contents(cache: str) -> dict[str, Any]:
    """What is the same whoever makes a cache: its Parquet files, and what its documents say."""
    root = Path(cache)
    files: dict[str, Any] = {
        str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*.parquet")
    }
    manifest = json.loads((root / "manifest.json").read_bytes())
    plan = json.loads((root / "plan.json").read_bytes())
    del manifest["created_at"], plan["created_at"], plan["spec"]["output"]
    return files | {
        "manifest": manifest,
        "plan": plan,
        "files": sorted(file.name for file in (root / "shards").iterdir()),
    }


def of_each(job: ScoreSpec) -> list[dict[str, Any]]:
    return [contents(output) for output in job.outputs]


@pytest.mark.parametrize("changes", [{}, {"views": DRAWN, "captions": 2}], ids=["one", "views"])
def test_each_cache_is_what_a_job_of_its_own_makes(
    several: ScoreSpec, alone: Callable, changes: dict[str, Any]
) -> None:
    several = ScoreSpec.model_validate(several.model_dump() | changes)
    summary = score(several, here=True)
    assert of_each(several) == alone(several)
    for each in (summary, *summary.also):
        assert (each.ok, each.failed_by_code) == (23, {"image_undecodable": 1})
        assert (each.encoded_shards, each.failures) == (3, {})
    assert [each.cache for each in (summary, *summary.also)] == several.outputs
    shapes = [CacheReader.open(output).manifest.dimension for output in several.outputs]
    assert shapes == [32, 48, 32]


def test_each_picture_is_decoded_once(several: ScoreSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[str, str]] = []
    submit = ThreadDecoder.submit

    def counted(self: ThreadDecoder, data: bytes, name: tuple[str, str], stages: Any) -> Any:
        decoded.append(name)
        return submit(self, data, name, stages)

    monkeypatch.setattr(ThreadDecoder, "submit", counted)
    score(several, here=True)
    assert len(decoded) == len(set(decoded)) == 24


def test_encoders_in_ray_write_the_same(
    several: ScoreSpec, alone: Callable, ray_address: str
) -> None:
    score(several.model_copy(update={"workers": 2}), ray_address=ray_address)
    made = of_each(several)
    for each in made:
        each["plan"]["spec"]["workers"] = None
    assert made == alone(several)


def test_what_one_cache_lacks_is_encoded_by_its_reference_alone(
    several: ScoreSpec, alone: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cache was made before, another was begun, and the third has lost its commit."""
    wide, alike = several.each[1:]
    score(wide, here=True)
    score(alike.model_copy(update={"shards": "00001*"}), here=True)
    Path(alike.output, "manifest.json").unlink()
    before = contents(wide.output)
    kept = Path(wide.output, "shards", "00000.tar.parquet").stat().st_mtime_ns
    summary = score(several, here=True)
    assert [each.encoded_shards for each in (summary, *summary.also)] == [3, 0, 2]
    assert of_each(several)[:2] == alone(several)[:2]
    assert contents(wide.output) == before
    assert Path(wide.output, "shards", "00000.tar.parquet").stat().st_mtime_ns == kept
    assert all(verify(output, deep=True).ok for output in several.outputs)

    monkeypatch.setattr(driver, "_crew", None)  # nothing is left to encode, and none is started
    again = score(several)
    assert [each.encoded_shards for each in (again, *again.also)] == [0, 0, 0]


def test_progress_is_of_the_pass(several: ScoreSpec) -> None:
    score(several.each[0], here=True)
    summary = score(several, here=True)
    progress = Progress.read(f"{several.output}/progress.json")
    assert (progress.phase, progress.shards_total, progress.shards_committed) == ("completed", 3, 3)
    assert (progress.pairs_done, progress.run.shards_committed) == (24, 3)
    assert summary.encoder_seconds > 0


def test_a_shard_that_fails_fails_in_all(several: ScoreSpec) -> None:
    Path(several.dataset, "00002.tar").write_bytes(b"no tar" * 200)
    summary = score(several, here=True)
    for each in (summary, *summary.also):
        assert list(each.failures) == ["00002.tar"]
        manifest = CacheReader.open(each.cache).manifest
        assert list(manifest.failed_shards) == ["00002.tar"]


def test_another_reference_in_one_of_the_outputs_is_refused(several: ScoreSpec) -> None:
    own, wide, alike = several.each
    score(alike.model_copy(update={"output": wide.output}), here=True)
    with pytest.raises(FingerprintMismatch, match="/wide was made with another fingerprint"):
        score(several, here=True)
    assert not Path(own.output, "plan.json").exists()


def test_an_output_that_another_run_writes_is_refused(several: ScoreSpec) -> None:
    with (
        Lease(several.also[0].output, "another"),
        pytest.raises(CacheBusy, match=f"{several.also[0].output}.*job another"),
    ):
        score(several, here=True)


def test_places_outside_the_roots_are_refused(several: ScoreSpec, tmp_path: Path) -> None:
    roots = [several.dataset, several.output, several.reference.local_dir or ""]
    with pytest.raises(UriNotAllowed, match="wide"):
        score(several, here=True, roots=roots)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("{0}", "are one folder, or one lies in the other"),
        ("{0}/", "are one folder"),
        ("{0}/shards/inner", "lies in the other"),
        ("{0}/..", "lies in the other"),
    ],
)
def test_outputs_that_are_not_apart_are_refused(
    several: ScoreSpec, output: str, message: str
) -> None:
    other = several.also[0].model_copy(update={"output": output.format(several.output)})
    with pytest.raises(InvalidInput, match=message):
        score(several.model_copy(update={"also": [other]}), here=True)


def test_a_reference_that_is_named_twice_is_refused(several: ScoreSpec, tmp_path: Path) -> None:
    twice = ReferenceOutput(reference=several.reference, output=str(tmp_path / "twice"))
    with pytest.raises(InvalidInput, match=r"is named twice, for .*/cache and .*/twice"):
        score(several.model_copy(update={"also": [twice]}), here=True)


def test_reuse_is_for_jobs_of_one_reference(several: ScoreSpec) -> None:
    with pytest.raises(InvalidInput, match=r"rows of /old are reused .* and this one has 3"):
        score(several.model_copy(update={"reuse": ["/old"]}), here=True)
