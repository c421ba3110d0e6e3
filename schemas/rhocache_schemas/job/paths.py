"""The locations that a job names."""

from typing import TypeVar

from rhocache_schemas import storage
from rhocache_schemas.job.spec import JobSpec
from rhocache_schemas.reference import LOCAL_DIR

Spec = TypeVar("Spec", bound=JobSpec)


def named_locations(spec: JobSpec) -> list[str]:
    """Every location that a job names: dataset, output, and the reference's folder or file."""
    named = [spec.dataset, spec.output]
    if spec.reference.local_dir is not None:
        named.append(spec.reference.local_dir)
    pretrained = spec.reference.pretrained or ""
    if "/" in pretrained or is_local(pretrained):
        named.append(pretrained)
    return named


def absolute(spec: Spec) -> Spec:
    """Spell out a job's relative paths: other processes have working folders of their own.

    Raises InvalidInput for a scheme that is not one of storage.SCHEMES.
    """
    reference = spec.reference
    return spec.model_copy(
        update={
            "dataset": absolute_location(spec.dataset),
            "output": absolute_location(spec.output),
            "reference": reference.model_copy(
                update={
                    "model": absolute_model(reference.model),
                    "pretrained": absolute_weights(reference.pretrained),
                }
            ),
        }
    )


def absolute_location(location: str) -> str:
    """Spell out a local path or ``file:`` URI as an absolute path; leave another URI as it is.

    Raises InvalidInput for a scheme that is not one of storage.SCHEMES, and as local_path does.
    """
    if storage.scheme(location) != "file":
        return location
    return str(storage.local_path(location))


def absolute_model(model: str) -> str:
    """Spell out the path of ``local-dir:PATH``; leave another name of a model as it is."""
    if not model.startswith(LOCAL_DIR):
        return model
    return LOCAL_DIR + absolute_location(model.removeprefix(LOCAL_DIR))


def absolute_weights(pretrained: str | None) -> str | None:
    """Spell out the path of a file of weights; leave one of open_clip's tags as it is."""
    return absolute_location(pretrained) if pretrained and is_local(pretrained) else pretrained


def is_local(pretrained: str) -> bool:
    """Whether weights are given by their file or folder; otherwise it is one of open_clip's tags.

    A folder's path has a slash in it: one that is just here may be called like a tag.
    """
    if storage.scheme(pretrained) != "file":
        return False
    path = storage.local_path(pretrained)
    try:
        return path.is_file() or ("/" in pretrained and path.is_dir())
    except OSError:  # as with a name that is too long for a file
        return False
