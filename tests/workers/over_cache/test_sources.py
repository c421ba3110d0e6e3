"""Labels and class names out of every format of dataset, which is read as it was scored."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from made_pairs import MadePair, make_pairs, write_csv, write_folder, write_parquet, write_tar
from torch import Tensor, nn

from rhocache_schemas.errors import PairMismatch
from rhocache_schemas.job.kinds.classify import ClassifySpec
from rhocache_schemas.job.kinds.prompts import PromptsSpec
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.table.documents import TableManifest
from rhocache_schemas.table.reader import TableReader
from rhocache_workers.over_cache.classify import Classify
from rhocache_workers.over_cache.driver import make_table
from rhocache_workers.over_cache.prompts import Prompts
from rhocache_workers.run.driver import score

PAIRS = make_pairs(0)


def colour(pair: MadePair) -> str:
    return pair.caption.rpartition(" ")[2]


def row(pair: MadePair) -> dict[str, Any]:
    return {"image": pair.image, "caption": pair.caption, "id": pair.key, "colour": colour(pair)}


def tars(folder: Path) -> dict[str, str]:
    write_tar(folder / "0.tar", PAIRS, ("input.jpg", "out.txt"))
    return {"dataset": str(folder), "image_suffix": "input.jpg", "caption_suffix": "out.txt"}


def parquet(folder: Path) -> dict[str, str]:
    rows = [{"picture" if n == "image" else n: v for n, v in row(p).items()} for p in PAIRS]
    file = write_parquet(folder / "pairs.parquet", rows)
    return {"dataset": str(file), "image_column": "picture", "key_column": "id"}


def csv(folder: Path) -> dict[str, str]:
    """Away from its images."""
    write_csv(folder / "pairs.csv", [row(pair) for pair in PAIRS])
    shutil.move(folder / "pairs.csv", folder / "csv")
    return {"dataset": f"{folder}/csv", "format": "csv", "images": str(folder), "key_column": "id"}


def images(folder: Path) -> dict[str, str]:
    for pair in PAIRS:
        write_folder(folder / colour(pair), [pair])
        (folder / colour(pair) / f"{pair.key}.json").write_text(
            json.dumps(row(pair) | {"image": 0})
        )
    return {"dataset": str(folder)}


@pytest.fixture(scope="module", params=[tars, parquet, csv, images])
def scored(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, reference_folder: Path
) -> ScoreSpec:
    folder = tmp_path_factory.mktemp(request.param.__name__)
    (folder / "pairs").mkdir()
    spec = ScoreSpec.model_validate(
        {
            "output": f"{folder}/cache",
            "reference": {"model": f"local-dir:{reference_folder}"},
            **request.param(folder / "pairs"),
        }
    )
    score(spec, here=True)
    return spec


def labels(table: str) -> list[str | None]:
    return TableReader.open(table).as_table(["label"])["label"].to_pylist()


class Brightness(nn.Module):
    """A logit for each of the four colours."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.mean((1, 2, 3))[:, None]], 1)


def test_classes_are_where_the_pairs_were(scored: ScoreSpec, tmp_path: Path) -> None:
    """By the cache's manifest: neither the dataset nor how it is read is said again."""
    asked = {"cache": scored.output, "class_field": "colour"}
    prompts = PromptsSpec.model_validate(asked | {"output": f"{tmp_path}/p", "templates": "name"})
    make_table(prompts, Prompts, here=True)
    asked |= {"output": f"{tmp_path}/t", "prompts": f"{tmp_path}/p"}
    made = make_table(ClassifySpec.model_validate(asked), Classify, here=True)
    assert sorted(map(str, labels(f"{tmp_path}/t"))) == sorted(map(colour, PAIRS))
    assert made.summary.facts["loss, mean"] > 0


def by_pictures(scored: ScoreSpec, folder: Path, **fields: Any) -> TableManifest:
    example = (torch.zeros(4, 3, 8, 8),)
    torch.export.save(torch.export.export(Brightness(), example), folder / "c.pt2")
    (folder / "classes.txt").write_text("red\ngreen\nblue\nwhite\n")
    asked = {
        "cache": scored.output,
        "output": f"{folder}/table",
        "classifier": f"{folder}/c.pt2",
        "classes": f"{folder}/classes.txt",
        "class_field": "colour",
    }
    return make_table(ClassifySpec.model_validate(asked | fields), Classify, here=True)


def test_pictures_are_where_they_were(scored: ScoreSpec, tmp_path: Path) -> None:
    """Of the pictures, which are of one colour but for some rows, that channel is the brightest."""
    by_pictures(scored, tmp_path)
    rows = TableReader.open(f"{tmp_path}/table").as_table(["label", "predicted"]).to_pylist()
    assert len(rows) == len(PAIRS)
    for found in rows:
        assert found["label"] == found["predicted"] or found["label"] == "white"


def test_a_dataset_that_has_moved(scored: ScoreSpec, tmp_path: Path) -> None:
    source = Path(scored.dataset)
    there = tmp_path / "moved" / source.name  # by which shards of tables are called
    there.parent.mkdir()
    (shutil.copytree if source.is_dir() else shutil.copy)(source, there)
    by_pictures(scored, tmp_path, dataset=str(there))
    assert sorted(map(str, labels(f"{tmp_path}/table"))) == sorted(map(colour, PAIRS))


def test_the_last_folder_of_a_key(tmp_path: Path, reference_folder: Path) -> None:
    (tmp_path / "pairs").mkdir()
    spec = ScoreSpec.model_validate(
        {
            "output": f"{tmp_path}/cache",
            "reference": {"model": f"local-dir:{reference_folder}"},
            **images(tmp_path / "pairs"),
        }
    )
    score(spec, here=True)
    by_pictures(spec, tmp_path, class_field=None, label="folder")
    assert sorted(map(str, labels(f"{tmp_path}/table"))) == sorted(map(colour, PAIRS))
    shutil.rmtree(tmp_path / "pairs" / "blue")
    with pytest.raises(PairMismatch, match=r"has other pairs than .*: at row 0 green/0001, and"):
        by_pictures(spec, tmp_path, class_field=None, label="folder", output=f"{tmp_path}/other")
