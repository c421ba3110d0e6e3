from pathlib import Path

import pytest

from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.paths import absolute, named_locations


def spec(dataset: str, model: str, pretrained: str | None = None) -> ScoreSpec:
    reference = {"model": model, "pretrained": pretrained}
    return ScoreSpec.model_validate(
        {"dataset": dataset, "output": "s3://bucket/cache", "reference": reference}
    )


def test_a_folder_and_a_file_are_locations_and_a_tag_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").touch()
    (tmp_path / "folder").mkdir()
    for model, pretrained, named in (
        ("local-dir:/m", None, ["/m"]),
        ("hf-hub:org/repo", None, []),
        ("ViT-B-32", "laion2b_s34b_b79k", []),
        ("ViT-B-32", "absent/weights", ["absent/weights"]),
        ("ViT-B-32", "weights", ["weights"]),
        ("ViT-B-32", "./folder", ["./folder"]),
        ("ViT-B-32", "folder", []),  # or a folder that is called openai would hide the tag
    ):
        expected = sorted(["/d", "s3://bucket/cache", *named])
        assert sorted(named_locations(spec("/d", model, pretrained))) == expected


def test_relative_paths_are_spelled_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").touch()
    spelled = absolute(spec("data/{0..3}.tar", "local-dir:model"))
    assert spelled.dataset == f"{tmp_path}/data/{{0..3}}.tar"
    assert spelled.output == "s3://bucket/cache"
    assert spelled.reference.model == f"local-dir:{tmp_path}/model"
    assert absolute(spec("/d", "ViT-B-32", "weights")).reference.pretrained == f"{tmp_path}/weights"
    assert absolute(spec("/d", "ViT-B-32", "openai")).reference.pretrained == "openai"


def test_a_home_folder_and_a_file_uri_are_spelled_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w t").touch()
    spelled = absolute(spec("file:///a%20b", "local-dir:~/model"))
    assert (spelled.dataset, spelled.reference.local_dir) == ("/a b", f"{tmp_path}/model")
    weights = spec("~/d", "ViT-B-32", "~/w t")
    assert sorted(named_locations(weights)) == ["s3://bucket/cache", "~/d", "~/w t"]
    assert absolute(weights).reference.pretrained == f"{tmp_path}/w t"
    assert absolute(spec("/d", "ViT-B-32", f"file://{tmp_path}/w%20t")).reference.pretrained == (
        f"{tmp_path}/w t"
    )


def test_a_scheme_that_is_not_ours() -> None:
    with pytest.raises(InvalidInput, match="http"):
        absolute(spec("http://host/x", "hf-hub:org/repo"))
