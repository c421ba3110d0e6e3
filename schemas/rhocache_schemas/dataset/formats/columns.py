"""Which columns of a table hold what."""

from collections.abc import Sequence
from dataclasses import dataclass

from rhocache_schemas.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a table's columns. ``shard`` is the dataset shard that a pair once came from."""

    image: str
    caption: str
    key: str | None
    shard: str | None


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """Names that the columns may have. One that somebody ``asked`` for must be there."""

    image: Sequence[str]
    caption: Sequence[str]
    key: Sequence[str]
    shard: Sequence[str]
    asked: frozenset[str] = frozenset()

    def among(self, there: Sequence[str], source: str) -> Columns:
        """Choose, of those that a table has, the first of each kind. Raises DatasetError."""

        def first(names: Sequence[str]) -> str | None:
            return next((name for name in names if name in there), None)

        image, caption, key, shard = map(first, (self.image, self.caption, self.key, self.shard))
        lacking = self.asked - set(there)
        if image is None:
            lacking |= {" or ".join(self.image)}
        if caption is None:
            lacking |= {" or ".join(self.caption)}
        if lacking or image is None or caption is None:
            raise DatasetError(
                f"{source} has no column {', '.join(sorted(lacking))}; it has {', '.join(there)}"
            )
        chosen = Columns(image, caption, key, shard)
        twice = [name for name in (image, caption, key, shard) if there.count(name or "") > 1]
        if twice:
            raise DatasetError(f"{source} has column {twice[0]} twice: rename one of them")
        return chosen
