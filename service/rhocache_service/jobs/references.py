"""What is known of references without loading any."""

import json

from rhocache_schemas import storage
from rhocache_schemas.errors import StorageError
from rhocache_schemas.models import known_models
from rhocache_schemas.reference import ReferenceSpec

_CONFIG = "open_clip_config.json"  # of a local-dir


def dimension_of(reference: ReferenceSpec) -> int | None:
    """Return how many numbers an embedding has; None where only the weights' loading tells it."""
    if reference.local_dir is None:
        known = known_models().get(reference.model)
        return known and known["dimension"]
    try:
        config = json.loads(storage.read_bytes(storage.join(reference.local_dir, _CONFIG)))
        found = config["model_cfg"]["embed_dim"]
    except (StorageError, ValueError, LookupError, TypeError):
        return None  # the driver says what is wrong with it
    return found if isinstance(found, int) and found > 0 else None
