"""Whether there is a model of a reference's name, before anything is started for it."""

from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.models import check_name
from rhocache_schemas.reference import ReferenceSpec


def check_reference(reference: ReferenceSpec) -> None:
    """Raises InvalidInput for an architecture or weights that open_clip does not have."""
    try:
        check_name(reference)
    except InvalidInput:
        import open_clip  # takes seconds, and may be newer than the list

        known: dict[str, list[str]] = {name: [] for name in open_clip.list_models()}
        for name, tag in open_clip.list_pretrained():
            known[name].append(tag)
        check_name(reference, known)
