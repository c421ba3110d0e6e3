"""Embeds the names of classes in prompts, as open_clip's build_zero_shot_classifier does."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial

import numpy as np

from rhocache_schemas.dataset.formats import open_dataset, read_shard
from rhocache_schemas.errors import DatasetError, InvalidInput
from rhocache_schemas.job.allowed_roots import Under
from rhocache_schemas.job.kinds.prompts import PromptsSpec
from rhocache_schemas.job.paths import named_locations
from rhocache_schemas.table import prompts as table
from rhocache_schemas.table.documents import Sample, Summary, Value
from rhocache_workers.over_cache.class_names import read_classes, read_lines
from rhocache_workers.over_cache.run import Run
from rhocache_workers.over_cache.scored_dataset import (
    class_of,
    scored_source,
    source_like_scored,
    with_class,
)
from rhocache_workers.over_cache.work import Work

_AT_ONCE = 256  # texts
_SHOWN = 50  # classes

Template = Callable[[str], str]


class Prompts(Work[PromptsSpec]):
    """The mean of the unit embeddings of a class's prompts, as a unit vector, float32.

    Underscores in names become spaces in prompts.
    """

    def locations(self) -> Sequence[str]:
        own = (
            []
            if self.spec.class_field is None or self.spec.dataset
            else [self.cache.manifest.dataset]
        )
        return [*named_locations(self.cache.manifest), *own]

    def inputs(self) -> Mapping[str, str]:
        """Raises InvalidInput, DatasetError and StorageError."""
        made: dict[str, object] = {"names": self._names}
        if self.spec.templates_file is not None:
            made["templates"] = read_lines(self.spec.templates_file)
        hashes = {
            name: hashlib.sha256(json.dumps(value).encode()).hexdigest()
            for name, value in made.items()
        }
        return hashes | {table.REFERENCE: table.reference_of(self.cache.manifest.fingerprint)}

    def check(self) -> None:
        """Raises InvalidInput for templates without a place for the name, and StorageError."""
        self._templates()

    def make(self, run: Run) -> Summary:
        """Raises ReferenceUnavailable, and FingerprintMismatch where the reference has changed."""
        run.begin([])
        templates = self._templates()
        run.progress.step("loading the reference")
        vectors = self._embed(templates)
        found = table.Prompts(self._names, table.templates_of(self.spec), vectors)
        run.add(run.target.write_table(table.FILE, found.to_table()))
        return _summary(self._names, vectors, len(templates))

    @cached_property
    def _names(self) -> list[str]:
        if self.spec.classes is not None:
            return read_classes(self.spec.classes)
        manifest, dataset, field = self.cache.manifest, self.spec.dataset, self.spec.class_field
        check = None if self.roots is None else Under(self.roots)
        source, kind = (
            scored_source(manifest, None, check)
            if dataset is None
            else source_like_scored(manifest, dataset, check)
        )
        source = with_class(source, kind, field)
        found = {
            class_of(pair)
            for shard in open_dataset(source, kind, check).shards
            for pair in read_shard(shard, source, images=False)
        }
        names = sorted(name for name in found if name is not None)
        if not names:
            raise DatasetError(
                f"no pair of {source.dataset} has a class: its JSON must hold a string in the "
                f"field {field!r}"
            )
        return names

    def _templates(self) -> Sequence[Template]:
        if self.spec.templates_file is not None:
            lines = read_lines(self.spec.templates_file)
            if wrong := next((line for line in lines if line.count("{}") != 1), None):
                raise InvalidInput(
                    f"{self.spec.templates_file}: {wrong!r} should have one {{}} for the name"
                )
            return [partial(_fill, line) for line in lines]
        import open_clip

        return {
            "openai": open_clip.OPENAI_IMAGENET_TEMPLATES,
            "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES,
            "name": (str,),
        }[self.spec.templates]

    def _embed(self, templates: Sequence[Template]) -> np.ndarray:
        """[classes, d]"""
        import torch

        from rhocache_workers.reference.model import load_reference

        device = "cuda" if torch.cuda.is_available() else "cpu"
        reference = load_reference(self.cache.manifest.reference, device)
        reference.check_made(self.cache.manifest, self.cache.uri)
        texts = [template(_spoken(name)) for name in self._names for template in templates]
        parts = [
            reference.encode_texts(reference.tokenizer(texts[start : start + _AT_ONCE]))
            for start in range(0, len(texts), _AT_ONCE)
        ]
        means = torch.cat(parts).unflatten(0, (len(self._names), len(templates))).mean(1)
        return torch.nn.functional.normalize(means, dim=1).cpu().numpy()


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _fill(line: str, name: str) -> str:
    return line.replace("{}", name)


def _summary(names: Sequence[str], vectors: np.ndarray, templates: int) -> Summary:
    """Of each class, which other one is nearest."""
    shown = vectors[:_SHOWN] @ vectors.T
    shown[np.arange(len(shown)), np.arange(len(shown))] = -np.inf
    nearest: list[int] = shown.argmax(1).tolist()
    rows: list[list[Value]] = [
        [name, names[other] if len(names) > 1 else None, float(cosine) if len(names) > 1 else None]
        for name, other, cosine in zip(names[:_SHOWN], nearest, shown.max(1), strict=True)
    ]
    return Summary(
        facts={"classes": len(names), "prompts of each": templates},
        samples=[Sample(title="classes", columns=["class", "nearest", "cosine"], rows=rows)],
    )
