"""What people call jobs: the same on pages and on command lines."""

import re

from rhocache_schemas.dataset.shards import is_shard
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobSpec
from rhocache_schemas.reference import ReferenceSpec

JOB_ID = re.compile("job_[0-9a-f]{24}")


def name_of(spec: JobSpec) -> str:
    """The name that its metadata give a job, or what it does."""
    return spec.metadata.get("name", "").strip() or about(spec)


def about(spec: JobSpec) -> str:
    """Tell a job by its data: ``laion → ViT-B-32``."""
    if isinstance(spec, ScoreSpec):
        return data_to_model(spec.dataset, spec.reference.model)
    return f"{spec.kind} → {last_part(spec.output)}"


def data_to_model(dataset: str, model: str) -> str:
    """Of tars with the folder's name too, for they are called the same anywhere."""
    parts = dataset.rstrip("/").split("/")
    data = "/".join(parts[-2:] if is_shard(parts[-1]) else parts[-1:])
    return f"{data} → {last_part(model)}"


def reference_name(reference: ReferenceSpec) -> str:
    """``ViT-B-32 / openai``, or the last part of a folder or hub's repository."""
    return " / ".join(filter(None, [last_part(reference.model), reference.pretrained]))


def last_part(place: str) -> str:
    """Of a path, a URI or a model's name."""
    return place.rstrip("/").rpartition("/")[2]
