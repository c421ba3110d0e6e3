"""The locations that a job names."""

from pathlib import Path
from typing import TypeVar

from rhocache_schemas import storage
from rhocache_schemas.job import JobSpec
from rhocache_schemas.reference import LOCAL_DIR

Spec = TypeVar("Spec", bound=JobSpec)


def named_locations(spec: JobSpec) -> list[str]:
    """Every location that a job names: dataset, output, and the reference's folder or file."""
    named = [spec.dataset, spec.output]
    if spec.reference.local_dir is not None:
        named.append(spec.reference.local_dir)
    pretrained = spec.reference.pretrained or ""
    if "/" in pretrained or _is_file(pretrained):
        named.append(pretrained)
    return named


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # as with a name that is too long for a file
        return False


def absolute(spec: Spec) -> Spec:
    """Spell out a job's relative paths: other processes have working folders of their own.

    Raises InvalidInput for a scheme that is not one of storage.SCHEMES.
    """
    reference = spec.reference
    if reference.local_dir is not None:
        model = LOCAL_DIR + absolute_location(reference.local_dir)
        reference = reference.model_copy(update={"model": model})
    elif reference.pretrained and _is_file(reference.pretrained):
        reference = reference.model_copy(
            update={"pretrained": absolute_location(reference.pretrained)}
        )
    return spec.model_copy(
        update={
            "dataset": absolute_location(spec.dataset),
            "output": absolute_location(spec.output),
            "reference": reference,
        }
    )


def absolute_location(location: str) -> str:
    """Spell out a relative path; leave a URI as it is.

    Raises InvalidInput for a scheme that is not one of storage.SCHEMES.
    """
    if storage.scheme(location) != "file" or "://" in location:
        return location
    return str(Path(location).absolute())
