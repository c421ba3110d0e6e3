"""Losses of exported classifiers against torch's own cross-entropy of the modules themselves."""

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import InvalidInput, MissingPair, PairMismatch, UriNotAllowed
from rhocache_schemas.job.kinds.classify import ClassifySpec
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.table.reader import TableReader
from rhocache_trainer.model.heads import Adapter, CachedTower, Linear, Mlp
from rhocache_workers.over_cache.classify import Classify
from rhocache_workers.over_cache.driver import make_table
from rhocache_workers.run.driver import score

from .conftest import EXAMPLES

Matrix = npt.NDArray[np.float64]
NAMES = ["arrow", "circle", "square"]
D, OK = 128, 300  # of the icons
DYNAMIC = ({0: torch.export.Dim("batch")},)
MANUAL = Path(__file__).parents[3] / "docs" / "over-a-cache.md"


def export(file: Path, module: nn.Module, *shape: int, dynamic: Any = DYNAMIC) -> str:
    example = (torch.zeros(*shape),)
    torch.export.save(torch.export.export(module.eval(), example, dynamic_shapes=dynamic), file)
    return str(file)


def label_some(cache: str, folder: Path, every: int = 1) -> tuple[dict[str, str], list[int]]:
    """Files of labels and classes, and the number of each row's label."""
    reader = CacheReader.open(cache)
    table = pa.concat_tables(
        [
            reader.columns(name, ["key"]).append_column(
                "shard", pa.array([name] * reader.index[name].rows)
            )
            for name in reader.index
        ]
    )
    numbers = [row % len(NAMES) for row in range(table.num_rows)]
    labels = [NAMES[n] if row % every == 0 else None for row, n in enumerate(numbers)]
    pq.write_table(table.append_column("label", pa.array(labels)), folder / "labels.parquet")
    (folder / "classes.txt").write_text("\n".join(NAMES))
    return {"labels": f"{folder}/labels.parquet", "classes": f"{folder}/classes.txt"}, numbers


def classify(cache: str, folder: Path, **fields: Any) -> list[dict[str, Any]]:
    asked = {"cache": cache, "output": f"{folder}/table", **fields}
    make_table(ClassifySpec.model_validate(asked), Classify, here=True)
    columns = ["loss", "label", "predicted"]
    return TableReader.open(f"{folder}/table").as_table(columns).to_pylist()


def check(rows: list[dict[str, Any]], logits: Tensor, numbers: list[int]) -> None:
    """Rows from the first on are those of the logits."""
    expected = cross_entropy(logits.double(), torch.tensor(numbers), reduction="none")
    assert [row["loss"] for row in rows] == pytest.approx(expected.tolist(), abs=1e-5)
    assert [row["label"] for row in rows] == [NAMES[number] for number in numbers]
    assert [row["predicted"] for row in rows] == [NAMES[best] for best in logits.argmax(1)]


HEADS: dict[str, Callable[[], nn.Module]] = {
    "probe": lambda: nn.Linear(D, 3),
    "linear": lambda: CachedTower(Linear().build(D, 3)),
    "mlp": lambda: CachedTower(Mlp(hidden=8).build(D, 3)),
    "adapter": lambda: nn.Sequential(CachedTower(Adapter().build(D, D)), nn.Linear(D, 3)),
}


@pytest.mark.parametrize(
    ("head", "batch", "dynamic"),
    [
        ("probe", 2, DYNAMIC),
        ("linear", 2, ({0: torch.export.Dim("batch", min=2, max=7)},)),
        ("mlp", 16, None),  # of which 300 is no multiple
        ("adapter", 1, None),
    ],
)
def test_heads_on_embeddings(
    icons: str,
    embeddings: tuple[Matrix, Matrix],
    tmp_path: Path,
    head: str,
    batch: int,
    dynamic: Any,
) -> None:
    torch.manual_seed(0)
    module = HEADS[head]()
    program = export(tmp_path / "head.pt2", module, batch, D, dynamic=dynamic)
    asked, numbers = label_some(icons, tmp_path)
    rows = classify(icons, tmp_path, classifier=program, **asked)
    with torch.no_grad():
        logits = module(torch.from_numpy(embeddings[0]).float())
    check(rows[:OK], logits, numbers[:OK])
    assert {row["loss"] for row in rows[OK:]} == {None}


@pytest.fixture(scope="module")
def small(
    tmp_path_factory: pytest.TempPathFactory, make_reference: Callable[[int], Path]
) -> ScoreSpec:
    """A scored dataset of some pairs in a tar, by a reference of 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "pairs").mkdir()
    with tarfile.open(EXAMPLES / "icons" / "00000.tar") as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar.getmembers()[:36]]
    with tarfile.open(folder / "pairs" / "0.tar", "w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    spec = ScoreSpec.model_validate(
        {
            "dataset": f"{folder}/pairs",
            "output": f"{folder}/cache",
            "reference": {"model": f"local-dir:{make_reference(1)}"},
        }
    )
    score(spec, here=True)
    return spec


def pictures(spec: ScoreSpec) -> list[Image.Image]:
    """In order, decoded by Pillow alone."""
    with tarfile.open(Path(spec.dataset, "0.tar")) as tar:
        images = [info for info in tar if not info.name.endswith((".txt", ".json"))]
        return [Image.open(io.BytesIO(tar.extractfile(info).read())) for info in images]


def run_manual(section: str, folder: Path, **names: Any) -> dict[str, Any]:
    """Run a snippet of the manual, in ``folder`` and with the icons' dimension."""
    blocks = re.findall(r"```python\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    (code,) = (block for block in blocks if section in block)
    code = code.replace('"classifier.pt2"', f'"{folder}/classifier.pt2"').replace("512", str(D))
    exec(code, names)  # of our own document
    return names


def test_an_open_clip_tower_with_a_head_as_the_manual_has_it(
    small: ScoreSpec, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    head = nn.Linear(32, 3)
    name = small.reference.model
    made = run_manual("model.visual", tmp_path, name=name, head=head)
    asked, numbers = label_some(small.output, tmp_path)
    rows = classify(small.output, tmp_path, classifier=f"{tmp_path}/classifier.pt2", **asked)
    _, _, preprocess = open_clip.create_model_and_transforms(name)
    with torch.no_grad():
        logits = made["classifier"](torch.stack([preprocess(each) for each in pictures(small)]))
    check(rows, logits, numbers)


def test_a_head_of_the_trainer_as_the_manual_has_it(
    icons: str, embeddings: tuple[Matrix, Matrix], tmp_path: Path
) -> None:
    made = run_manual("CachedTower", tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps([str(n) for n in range(10)]))
    asked, _ = label_some(icons, tmp_path)
    labels = pq.read_table(asked["labels"])
    numbers = pa.array([row % 10 for row in range(labels.num_rows)])
    pq.write_table(labels.set_column(2, "label", numbers), asked["labels"])
    asked["classes"] = f"{tmp_path}/classes.json"
    rows = classify(icons, tmp_path, classifier=f"{tmp_path}/classifier.pt2", **asked)
    with torch.no_grad():
        logits = made["classifier"](torch.from_numpy(embeddings[0]).float())
    expected = cross_entropy(logits, torch.tensor(numbers.to_pylist()[:OK]), reduction="none")
    assert [row["loss"] for row in rows[:OK]] == pytest.approx(expected.tolist(), abs=1e-5)


class Means(nn.Module):
    """Three logits: the means of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * 5


def test_pictures_at_a_size_and_with_channels_of_its_own(small: ScoreSpec, tmp_path: Path) -> None:
    """Of half of the pairs, which have labels, five at a time."""
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    program = export(tmp_path / "c.pt2", Means(), 5, 3, 20, 24, dynamic=None)
    asked, numbers = label_some(small.output, tmp_path, every=2)
    asked |= {"classifier": program, "mean": "0.1,0.2,0.3", "std": "0.5,0.6,0.7"}
    rows = classify(small.output, tmp_path, dataset=small.dataset, **asked)
    own: dict[str, Any] = CacheReader.open(small.output).manifest.fingerprint.preprocessing
    config = PreprocessCfg(**own | {"size": (20, 24), "mean": mean, "std": std})
    preprocess: Any = image_transform_v2(config, is_train=False)
    logits = Means()(torch.stack([preprocess(each) for each in pictures(small)[::2]]))
    check(rows[::2], logits, numbers[::2])
    assert {row["loss"] for row in rows[1::2]} == {None}


def test_pictures_are_those_that_were_scored(small: ScoreSpec, tmp_path: Path) -> None:
    program = export(tmp_path / "c.pt2", Means(), 2, 3, 16, 16)
    asked, _ = label_some(small.output, tmp_path)
    (tmp_path / "pairs").mkdir()
    with tarfile.open(Path(small.dataset, "0.tar")) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar.getmembers()]
    data = next(data for info, data in members if info.name.endswith("png"))
    with tarfile.open(tmp_path / "pairs" / "0.tar", "w") as tar:
        for info, before in members:
            after = data if info.name.endswith("png") else before
            info.size = len(after)
            tar.addfile(info, io.BytesIO(after))
    with pytest.raises(PairMismatch, match=r"shard 0\.tar, key .*: the image is not the one"):
        classify(small.output, tmp_path, dataset=f"{tmp_path}/pairs", classifier=program, **asked)


def test_a_dataset_that_a_service_may_not_read(small: ScoreSpec, tmp_path: Path) -> None:
    """The cache's manifest names it, and no field of the job."""
    program = export(tmp_path / "c.pt2", Means(), 2, 3, 16, 16)
    asked, _ = label_some(small.output, tmp_path)
    spec = ClassifySpec.model_validate(
        {"cache": small.output, "output": f"{tmp_path}/t", "classifier": program, **asked}
    )
    with pytest.raises(UriNotAllowed, match="pairs' is not under an allowed root"):
        make_table(spec, Classify, here=True, roots=[small.output, str(tmp_path)])
    assert not (tmp_path / "t").exists()


class Odd(nn.Module):
    """Logits that are not finite, in three rows."""

    def forward(self, x: Tensor) -> Tensor:
        logits = x[:, :3].clone()
        nan, infinity = float("nan"), float("inf")
        rows = torch.tensor([[nan, 0, 0], [0, infinity, 0], [0, 0, -infinity], [0, -infinity, 0]])
        return torch.cat([rows, logits[4:]])


def test_logits_that_are_not_finite(
    icons: str, embeddings: tuple[Matrix, Matrix], tmp_path: Path
) -> None:
    """No loss and no class; but a class that can't be, of infinitely small a logit, is no harm."""
    program = export(tmp_path / "odd.pt2", Odd(), OK, D, dynamic=None)
    asked, numbers = label_some(icons, tmp_path)
    rows = classify(icons, tmp_path, classifier=program, **asked)
    for row, label in zip(rows[:3], NAMES, strict=True):
        assert row == row | {"loss": None, "label": label, "predicted": None}
    assert rows[3]["loss"] == pytest.approx(np.log(2))
    check(rows[4:OK], torch.from_numpy(embeddings[0][4:, :3]), numbers[4:OK])


class Other(nn.Module):
    """Takes and makes what a test says."""

    def __init__(self, make: Callable[..., Any]) -> None:
        super().__init__()
        self._make = make

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._make(*args, **kwargs)


X = torch.zeros(2, D)


@pytest.mark.parametrize(
    ("make", "args", "kwargs", "match"),
    [
        (lambda x: x[:, :3], (torch.zeros(2, 8),), {}, r"takes float32 \[2, 8\]; .* \[B, 128\]"),
        (lambda x: x[:, :3], (X.half(),), {}, r"takes float16 \[2, 128\]; a classifier takes one"),
        (lambda x: x[:, :3, 0, 0], (torch.zeros(2, 4, 8, 8),), {}, r"takes float32 \[2, 4, 8, 8\]"),
        (lambda x, y: x + y, (X, X), {}, r"takes float32 \[2, 128\] and float32 \[2, 128\]; a"),
        (lambda *, x: x * 2, (), {"x": X}, r"takes float32 \[2, 128\]; a classifier takes one"),
        (lambda x: {"logits": x * 2}, (X,), {}, r"makes float32 \[2, 128\]; .*logits \[B, classes"),
        (lambda x: x.sum(1), (X,), {}, r"makes float32 \[2\]; a classifier makes one tensor"),
        (lambda x: x[:, :3].long(), (X,), {}, r"makes int64 \[2, 3\]; a classifier makes one"),
        (lambda x: (x * 2, 3), (X,), {}, r"makes float32 \[2, 128\] and 3; a classifier makes"),
        (lambda x: x[:, :2] * 2, (X,), {}, r"makes 2 logits, and .*classes\.txt has 3 classes"),
        (lambda x: x[:1, :3] * 2, (X,), {}, r"makes logits \[1, 3\] of 2 inputs; \[2, 3\] would"),
    ],
)
def test_programs_that_are_no_classifier(
    icons: str, tmp_path: Path, make: Callable, args: tuple, kwargs: dict, match: str
) -> None:
    program = tmp_path / "other.pt2"
    torch.export.save(torch.export.export(Other(make), args, kwargs), program)
    asked, _ = label_some(icons, tmp_path)
    with pytest.raises(InvalidInput, match=match):
        classify(icons, tmp_path, classifier=str(program), **asked)
    assert not (tmp_path / "table").exists(), "nothing half written"


def test_files_that_are_no_program(icons: str, tmp_path: Path) -> None:
    asked, _ = label_some(icons, tmp_path)
    weights, text = tmp_path / "weights.pt", tmp_path / "text.pt2"
    torch.save(nn.Linear(D, 3).state_dict(), weights)
    text.write_text("no program")
    for file in (weights, text):
        with pytest.raises(InvalidInput, match=r"is no program that torch \d.* can load: export a"):
            classify(icons, tmp_path, classifier=str(file), **asked)
    program = export(tmp_path / "head.pt2", nn.Linear(D, 3), 2, D)
    with pytest.raises(InvalidInput, match="takes embeddings, and no pictures: leave out std, d"):
        classify(icons, tmp_path, classifier=program, std="1,1,1", dataset="/gone", **asked)
    (tmp_path / "classes.txt").write_text("arrow\ncircle\nstar")
    with pytest.raises(MissingPair, match=r"no class 'square', which \d+ images have; it has 3: a"):
        classify(icons, tmp_path, classifier=program, **asked)
    assert not (tmp_path / "table").exists(), "nothing half written"


@pytest.mark.parametrize(
    ("text", "match"),
    [('{"a": 1}', "no JSON list of class names"), ("[1]", "each a string"), ("[", "is no JSON: ")],
)
def test_classes_that_can_not_be(icons: str, tmp_path: Path, text: str, match: str) -> None:
    asked, _ = label_some(icons, tmp_path)
    (tmp_path / "classes.json").write_text(text)
    asked |= {"classes": f"{tmp_path}/classes.json", "classifier": asked["labels"]}
    with pytest.raises(InvalidInput, match=match):
        classify(icons, tmp_path, **asked)


def test_on_ray(small: ScoreSpec, tmp_path: Path, ray_address: str) -> None:
    """What goes to other processes is where the classifier is, and not what it was loaded into."""
    program = export(tmp_path / "c.pt2", Means(), 2, 3, 16, 16)
    asked, _ = label_some(small.output, tmp_path)
    alone = classify(small.output, tmp_path, classifier=program, **asked)
    asked |= {"cache": small.output, "output": f"{tmp_path}/ray", "classifier": program}
    make_table(ClassifySpec.model_validate(asked), Classify, ray_address=ray_address)
    found = TableReader.open(f"{tmp_path}/ray").as_table(["loss", "label", "predicted"])
    assert found.to_pylist() == alone
    assert {row["loss"] for row in alone} != {None}
