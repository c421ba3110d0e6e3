"""Classifiers of icons: what they get right, and a reference's losses."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor
from torch.nn.functional import cross_entropy

from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import list_shards
from rhocache_trainer.evaluation.measures import accuracies, class_accuracies
from rhocache_trainer.model.classifier import load_classifier

BATCH = 256


def measures(model: str, dataset: str, class_field: str, device: str) -> dict[str, float]:
    """Accuracy: of all images, as the mean of the classes, and of the worst tenth of them."""
    guesses, labels = [], []
    for _, logits, label in _logits(model, dataset, class_field, device):
        guesses.append(logits.argmax(1))
        labels.append(label)
    guess, truth = torch.cat(guesses), torch.cat(labels)
    accuracy, class_mean = accuracies(guess, truth)
    worst_first = class_accuracies(guess, truth).sort().values
    return {
        "accuracy": accuracy,
        "class_mean": class_mean,
        "worst_classes": float(worst_first[: max(1, len(worst_first) // 10)].mean()),
    }


def write_losses(path: Path, model: str, dataset: str, class_field: str, device: str) -> None:
    """Write each image's cross-entropy, as the trainer reads a reference's losses."""
    rows: dict[str, list[object]] = {"shard": [], "key": [], "loss": []}
    for pairs, logits, label in _logits(model, dataset, class_field, device):
        rows["shard"] += [pair.shard for pair in pairs]
        rows["key"] += [pair.key for pair in pairs]
        rows["loss"] += cross_entropy(logits, label, reduction="none").double().tolist()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(pa.table(rows), partial)
    partial.rename(path)


@torch.no_grad()
def _logits(
    folder: str, dataset: str, class_field: str, device: str
) -> Iterator[tuple[list[Pair], Tensor, Tensor]]:
    """Batches of pairs, their logits [B, classes] and labels [B]; unknown classes are left out."""
    model = load_classifier(folder)
    module = model.module.to(device)
    preprocess = image_transform_v2(PreprocessCfg(**model.preprocess_cfg), is_train=False)
    numbers = {name: number for number, name in enumerate(model.tokenizer.names)}
    readers = (ShardReader(shard, class_field) for shard in list_shards(dataset))
    known = (pair for reader in readers for pair in reader if pair.caption in numbers)
    while pairs := list(islice(known, BATCH)):
        pixels = [preprocess(open_image(pair.image or b"")) for pair in pairs]
        logits = module(torch.stack(pixels).to(device))["logits"].cpu()  # pyright: ignore[reportCallIssue, reportArgumentType]
        yield pairs, logits, torch.tensor([numbers[str(pair.caption)] for pair in pairs])
