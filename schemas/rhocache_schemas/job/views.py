"""The views of each image that a job is asked to score."""

from typing import Annotated, Literal, Self

from pydantic import Field

from rhocache_schemas.dataset.augmentation import Augmentation, View, ViewDraws, draw_view
from rhocache_schemas.documents import Strict
from rhocache_schemas.job.spec import Ask


class _Count(Strict):
    count: Annotated[
        int,
        Field(
            title="Views",
            ge=1,
            le=1024,
            description="Views of each image: the reference's own, and others as a training's "
            "augmentation draws them, which a trainer can replay.",
        ),
        Ask(option="views"),
    ] = 1
    seed: Annotated[
        int,
        Field(title="View seed", ge=0, lt=1 << 53, description="Of the views."),
        Ask(option="view-seed"),
    ] = 0


class Views(Augmentation, _Count):  # whose fields come first
    """View 0 of an image is the reference's own, as it evaluates; the others are drawn."""

    @property
    def recorded(self) -> Self | Literal[1]:
        """What of it changes rows."""
        return self if self.count > 1 else 1

    def view(self, number: int, shard: str, key: str, width: int, height: int) -> View:
        """Draw view ``number``, from 1 on, of the pair's image of ``width`` x ``height`` pixels."""
        return draw_view(width, height, self, ViewDraws(self.seed, shard, key, number))
