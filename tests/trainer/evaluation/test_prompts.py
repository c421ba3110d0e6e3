"""The dataset of prompts, as webdataset and tarfile see it."""

import io
import json
import tarfile
from pathlib import Path

import open_clip
import pytest
from PIL import Image

from rhocache_schemas.errors import DatasetError, InvalidInput
from rhocache_trainer import write_prompts
from rhocache_trainer.evaluation import prompts

from ..conftest import COLOURS, MadePair, make_pairs, write_tar


def read(folder: Path) -> list[dict[str, bytes]]:
    pairs: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                pairs.setdefault(f"{path.name}/{key}", {})[suffix] = tar.extractfile(member).read()
    return list(pairs.values())


def test_a_pair_for_each_class_and_template(dataset: Path, tmp_path: Path):
    out = tmp_path / "prompts"
    count = write_prompts(str(dataset), str(out), class_field="colour", templates="openai")
    assert count == 4 * 80
    pairs = read(out)
    captions = [pair["txt"].decode() for pair in pairs]
    templates = open_clip.OPENAI_IMAGENET_TEMPLATES
    assert captions == [template(name) for name in sorted(COLOURS) for template in templates]
    assert [json.loads(pair["json"])["class"] for pair in pairs[::80]] == sorted(COLOURS)
    assert Image.open(io.BytesIO(pairs[0]["png"])).size == (16, 16)


def test_a_class_may_be_asked_for_by_its_name_alone(dataset: Path, tmp_path: Path):
    write_prompts(str(dataset), str(tmp_path / "p"), class_field="colour", templates="name")
    assert [pair["txt"].decode() for pair in read(tmp_path / "p")] == sorted(COLOURS)


def test_many_prompts_make_several_shards(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_prompts(str(dataset), str(tmp_path / "one"), class_field="colour", templates="simple")
    monkeypatch.setattr(prompts, "_SHARD_PAIRS", 10)
    write_prompts(str(dataset), str(tmp_path / "many"), class_field="colour", templates="simple")
    assert len(list((tmp_path / "many").glob("*.tar"))) == 3
    assert read(tmp_path / "many") == read(tmp_path / "one")


def test_names_as_datasets_spell_them(tmp_path: Path):
    image = make_pairs(0)[0].image
    pairs = [
        MadePair("0", image, "ice_cream"),
        MadePair("1", image, "<b>"),
        MadePair("2", image, ""),
    ]
    write_tar(tmp_path / "data" / "0.tar", pairs)
    write_prompts(
        str(tmp_path / "data"), str(tmp_path / "p"), class_field="colour", templates="simple"
    )
    captions = [pair["txt"].decode() for pair in read(tmp_path / "p")]
    assert "itap of a <b>." in captions
    assert "itap of a ice cream." in captions
    assert len(captions) == 2 * len(open_clip.SIMPLE_IMAGENET_TEMPLATES)


def test_refused_before_anything_is_written(dataset: Path, tmp_path: Path):
    with pytest.raises(DatasetError, match="field 'species'"):
        write_prompts(str(dataset), str(tmp_path / "p"), class_field="species")
    assert not (tmp_path / "p").exists()
    with pytest.raises(InvalidInput, match="already there"):
        write_prompts(str(dataset), str(dataset), class_field="colour")
