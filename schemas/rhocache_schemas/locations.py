"""The locations that a job names."""

from pathlib import Path

from rhocache_schemas import storage
from rhocache_schemas.job import JobSpec
from rhocache_schemas.reference import LOCAL_DIR


def named_locations(spec: JobSpec) -> list[str]:
    """Every location that a job names: dataset, output, and the reference's folder or file."""
    named = [spec.dataset, spec.output]
    if spec.reference.local_dir is not None:
        named.append(spec.reference.local_dir)
    pretrained = spec.reference.pretrained or ""
    if "/" in pretrained or Path(pretrained).is_file():
        named.append(pretrained)
    return named


def absolute(spec: JobSpec) -> JobSpec:
    """Spell out a job's relative paths: other processes have working folders of their own.

    Raises InvalidInput for a scheme that is not one of storage.SCHEMES.
    """
    reference = spec.reference
    if reference.local_dir is not None:
        model = LOCAL_DIR + _absolute(reference.local_dir)
        reference = reference.model_copy(update={"model": model})
    elif reference.pretrained and Path(reference.pretrained).is_file():
        reference = reference.model_copy(update={"pretrained": _absolute(reference.pretrained)})
    return spec.model_copy(
        update={
            "dataset": _absolute(spec.dataset),
            "output": _absolute(spec.output),
            "reference": reference,
        }
    )


def _absolute(location: str) -> str:
    if storage.scheme(location) != "file" or "://" in location:
        return location
    return str(Path(location).absolute())
