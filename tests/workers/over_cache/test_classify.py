"""Class prompts against open_clip's classifier, and losses of labels against torch's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from caches import FINGERPRINT
from torch.nn.functional import cross_entropy

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import (
    FingerprintMismatch,
    InvalidDocument,
    InvalidInput,
    MissingPair,
    RhocacheError,
)
from rhocache_schemas.job.kinds.classify import ClassifySpec
from rhocache_schemas.job.kinds.losses import LossesSpec
from rhocache_schemas.job.kinds.prompts import PromptsSpec
from rhocache_schemas.table.prompts import read_prompts
from rhocache_schemas.table.reader import TableReader
from rhocache_workers.over_cache.classify import Classify
from rhocache_workers.over_cache.contrastive import Losses
from rhocache_workers.over_cache.driver import make_table
from rhocache_workers.over_cache.prompts import Prompts

from .conftest import EXAMPLES

Matrix = npt.NDArray[np.float64]
NAMES = ["outline", "filled_shape", "arrow"]
TEMPLATES = ["an icon: {}", "the {} of a set"]


@pytest.fixture(scope="module")
def prompts(icons: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "classes.txt").write_text("\n".join([*NAMES, ""]))
    (folder / "templates.txt").write_text("\n".join(TEMPLATES))
    spec = PromptsSpec(
        cache=icons,
        output=str(folder / "table"),
        classes=str(folder / "classes.txt"),
        templates_file=str(folder / "templates.txt"),
    )
    made = make_table(spec, Prompts, here=True)
    assert made.summary.facts == {"classes": 3, "prompts of each": 2}
    return spec.output


def manifest_of(cache: str) -> Manifest:
    return CacheReader.open(cache).manifest


def open_clips(templates: list[Callable[[str], str]]) -> Matrix:
    """[classes, d]"""
    name = f"local-dir:{EXAMPLES / 'reference'}"
    model, _ = open_clip.create_model_from_pretrained(name)  # pyright: ignore
    tokenizer = open_clip.get_tokenizer(name)
    spoken = [name.replace("_", " ") for name in NAMES]
    model.eval()
    return open_clip.build_zero_shot_classifier(model, tokenizer, spoken, templates).T.numpy()


def test_prompts_are_open_clips(icons: str, prompts: str) -> None:
    found = read_prompts(prompts, icons, manifest_of(icons))
    assert (found.names, found.templates) == (NAMES, None)
    expected = open_clips([lambda name: f"an icon: {name}", lambda name: f"the {name} of a set"])
    assert found.vectors == pytest.approx(expected, abs=1e-6)


def test_prompts_of_a_dataset(icons: str, tmp_path: Path) -> None:
    dataset = EXAMPLES / "openclipart" / "00003.tar"
    spec = PromptsSpec(
        cache=icons,
        output=str(tmp_path / "table"),
        dataset=str(dataset),
        class_field="category",
        templates="simple",
    )
    make_table(spec, Prompts, here=True)
    found = read_prompts(spec.output, icons, manifest_of(icons))
    assert found.templates == "simple"
    assert found.names == sorted(set(found.names))
    assert len(found.names) > 5


def write_labels(path: Path, labels: list, keys: list[str], shard: str = "00000.tar") -> str:
    table = pa.table({"shard": [shard] * len(keys), "key": keys, "label": labels})
    pq.write_table(table, path)
    return str(path)


def keys_of(cache: str) -> list[str]:
    """Of the usable pairs."""
    return CacheReader.open(cache).columns("00000.tar", ["key"])["key"].to_pylist()[:300]


@pytest.mark.parametrize("by", ["name", "number"])
def test_losses_are_cross_entropies(
    icons: str, embeddings: tuple[Matrix, Matrix], prompts: str, tmp_path: Path, by: str
) -> None:
    numbers = np.arange(300) % 3
    labels = numbers.tolist() if by == "number" else [NAMES[number] for number in numbers]
    labels[7] = None
    file = write_labels(tmp_path / "labels.parquet", labels, keys_of(icons))
    spec = ClassifySpec(cache=icons, output=f"{tmp_path}/t", prompts=prompts, labels=file)
    make_table(spec, Classify, here=True)
    rows = TableReader.open(spec.output).as_table(["loss", "label", "predicted"]).to_pylist()
    vectors = read_prompts(prompts, icons, manifest_of(icons)).vectors
    logits = torch.from_numpy(manifest_of(icons).logit_scale * embeddings[0] @ vectors.T)
    expected = cross_entropy(logits, torch.from_numpy(numbers), reduction="none").numpy()
    known = [place for place in range(300) if place != 7]
    assert [rows[place]["loss"] for place in known] == pytest.approx(expected[known], abs=1e-5)
    assert [rows[place]["label"] for place in known] == [NAMES[numbers[place]] for place in known]
    best = logits.argmax(1).tolist()
    assert [rows[place]["predicted"] for place in known] == [NAMES[best[place]] for place in known]
    for row in (rows[7], rows[300], rows[-1]):  # without a label, and beyond the cache's limit
        assert (row["loss"], row["label"]) == (None, None)


def test_labels_of_the_dataset(icons: str, tmp_path: Path) -> None:
    """An icon's caption is a class of its own, which must be among the prompts."""
    (tmp_path / "classes.txt").write_text("arrow up 12 regular\n")
    asked = {"cache": icons, "output": f"{tmp_path}/p", "classes": f"{tmp_path}/classes.txt"}
    make_table(PromptsSpec.model_validate(asked | {"templates": "name"}), Prompts, here=True)
    spec = ClassifySpec(
        cache=icons, output=f"{tmp_path}/t", prompts=f"{tmp_path}/p", dataset=f"{EXAMPLES}/icons"
    )
    with pytest.raises(MissingPair, match=r"no prompt for the class .*, which \d+ images have; it"):
        make_table(spec, Classify, here=True)


@pytest.mark.parametrize(
    ("labels", "error", "match"),
    [
        (["zebra", "zebra", "arrow"], MissingPair, r"'zebra', which 2 images have; it has 3 cla"),
        ([3, 0, 3], InvalidInput, "label 3 of 2 images is out of range: there are 3 classes, 0 to"),
        ([-1, 0, 1], InvalidInput, "label -1 of 1 images is out of range"),
        ([0.5, 0.5, 0.5], InvalidDocument, "label is double; it must be a string or an integer"),
    ],
)
def test_labels_that_can_not_be(
    icons: str, prompts: str, tmp_path: Path, labels: list, error: type[RhocacheError], match: str
) -> None:
    file = write_labels(tmp_path / "labels.parquet", labels, ["a", "b", "c"])
    spec = ClassifySpec(cache=icons, output=f"{tmp_path}/t", prompts=prompts, labels=file)
    with pytest.raises(error, match=match):
        make_table(spec, Classify, here=True)
    assert not (tmp_path / "t").exists(), "nothing half written"


def test_other_tables_and_references(icons: str, prompts: str, tmp_path: Path) -> None:
    file = write_labels(tmp_path / "labels.parquet", [0], ["a"])
    make_table(LossesSpec(cache=icons, output=f"{tmp_path}/losses"), Losses, here=True)
    asked = {"cache": icons, "output": f"{tmp_path}/t", "labels": file}
    wrong = ClassifySpec.model_validate(asked | {"prompts": f"{tmp_path}/losses"})
    with pytest.raises(InvalidInput, match="is a table of the kind losses, not one of class prom"):
        make_table(wrong, Classify, here=True)
    other = manifest_of(icons).model_copy(update={"fingerprint": FINGERPRINT})
    with pytest.raises(FingerprintMismatch, match="were made by different references"):
        read_prompts(prompts, icons, other)


@pytest.mark.parametrize(
    ("text", "match"),
    [("a\nb\na\n", "has the class 'a' twice"), (" \n", "no line with anything in it")],
)
def test_names_that_can_not_be(icons: str, tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    spec = PromptsSpec(cache=icons, output=f"{tmp_path}/t", classes=f"{tmp_path}/classes.txt")
    with pytest.raises(InvalidInput, match=match):
        make_table(spec, Prompts, here=True)


def test_a_template_has_a_place_for_the_name(icons: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("no place\n")
    asked = {"classes": f"{tmp_path}/file.txt", "templates_file": f"{tmp_path}/file.txt"}
    spec = PromptsSpec.model_validate({"cache": icons, "output": f"{tmp_path}/t"} | asked)
    with pytest.raises(InvalidInput, match=r"'no place' should have one \{\} for the name"):
        make_table(spec, Prompts, here=True)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (PromptsSpec, {}),
        (PromptsSpec, {"classes": "c", "dataset": "d", "class_field": "f"}),
        (PromptsSpec, {"dataset": "d"}),
        (PromptsSpec, {"classes": "c", "class_field": "f"}),
        (ClassifySpec, {"prompts": "p", "labels": "l", "dataset": "d"}),
        (ClassifySpec, {}),
        (ClassifySpec, {"prompts": "p", "classifier": "c", "classes": "n"}),
        (ClassifySpec, {"classifier": "c"}),
        (ClassifySpec, {"prompts": "p", "std": "1,1,1"}),
    ],
)
def test_each_comes_from_one_place(kind: type, fields: dict) -> None:
    with pytest.raises(ValueError, match=r"come from|go together"):
        kind.model_validate({"cache": "c", "output": "o"} | fields)
