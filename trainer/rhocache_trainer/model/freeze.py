"""Training a part of a model."""

from typing import Any

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.training.config import Freeze


def freeze(module: Any, config: Freeze) -> None:
    """Keep the towers as they are but for their last layers, as open_clip locks them.

    Raises InvalidInput where open_clip can't lock so many layers of such a tower.
    """
    for tower, kept, lock in (
        ("image", config.image, module.lock_image_tower),
        ("text", config.text, module.lock_text_tower),
    ):
        if kept is None:
            continue
        try:
            lock(kept)
        except (AssertionError, IndexError, NotImplementedError) as error:
            raise InvalidInput(
                f"freeze.{tower}={kept}: this {tower} tower can't be frozen up to so many layers; "
                "0 freezes all of it"
            ) from error
