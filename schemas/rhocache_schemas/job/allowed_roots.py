"""Which locations a job may name: those under the service's allowed roots."""

from collections.abc import Iterable, Sequence

from pydantic import BaseModel

from rhocache_schemas import storage
from rhocache_schemas.abandonment import keep_on
from rhocache_schemas.dataset.formats import find_shards, open_dataset
from rhocache_schemas.dataset.formats.base import Format
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.dataset.source import AUTO, Source
from rhocache_schemas.errors import RhocacheError, UriNotAllowed
from rhocache_schemas.job.paths import named_code, named_locations

Place = tuple[str, tuple[str, ...]]


def check_allowed(uri: str, roots: Sequence[str]) -> None:
    """Refuse a path or URI that is not one of ``roots`` or below one.

    Local paths are compared with every symlink resolved, whether they exist yet or not; buckets by
    whole path parts, with no ``..`` in them.

    Raises UriNotAllowed, and InvalidInput for a scheme that is not one of storage.SCHEMES.
    """
    _check_under(uri, roots, [true_place(root) for root in roots])


def check_job(spec: BaseModel, roots: Sequence[str]) -> None:
    """Refuse a job that names a place outside ``roots``. Raises as check_allowed does."""
    for location in named_locations(spec):
        check_allowed(location, roots)


def check_code(spec: BaseModel, roots: Sequence[str]) -> None:
    """Refuse a job that would run code which does not lie under ``roots``.

    Raises as check_allowed does.
    """
    for place in named_code(spec):
        try:
            check_allowed(place, roots)
        except UriNotAllowed as error:
            raise UriNotAllowed(
                f"loading {place!r} can run code, which this service takes from "
                f"{', '.join(roots) or 'nowhere'}: who runs it can set RHOCACHE_CODE_ROOT; the "
                "command does without a service"
            ) from error


class Under:
    """Refuses places outside ``roots``, whose links are followed once for all of them.

    Calling it raises as check_allowed does. Other processes may get copies of it.
    """

    def __init__(self, roots: Sequence[str]) -> None:
        self._roots = roots
        self._places = [true_place(root) for root in roots]

    def __call__(self, place: str) -> None:
        keep_on()
        _check_under(place, self._roots, self._places)


def open_allowed(source: Source, kind: str = AUTO, roots: Sequence[str] | None = None) -> Format:
    """Open a dataset, of which no part is outside ``roots``, where there are any.

    A brace pattern, a link or a table's path may lead elsewhere. Raises as open_dataset and
    check_allowed do.
    """
    return open_dataset(source, kind, None if roots is None else Under(roots))


def find_allowed(
    source: Source, kind: str, names: Iterable[str], roots: Sequence[str] | None = None
) -> dict[str, Shard]:
    """Look for shards by their names, as find_shards does, none outside ``roots``."""
    return find_shards(source, kind, names, None if roots is None else Under(roots))


def true_place(uri: str) -> Place:
    """The kind of file system and the parts of the true path on it: equal for equal places.

    Raises UriNotAllowed for a path that has more than one reading, and InvalidInput for a scheme.
    """
    if "\0" in uri:
        raise UriNotAllowed(f"{uri!r} has a NUL byte in it")
    scheme = storage.scheme(uri)
    if scheme == "file":
        path = storage.local_path(uri)
        try:
            return scheme, path.resolve().parts
        except (OSError, RuntimeError) as error:  # a loop of symlinks is a RuntimeError
            raise UriNotAllowed(f"{uri!r} can't be followed to its end: {error}") from error
    parts = tuple(uri.removeprefix(f"{scheme}://").rstrip("/").split("/"))
    if not all(parts) or {".", ".."} & set(parts):
        raise UriNotAllowed(f"{uri!r} has an empty part, '.' or '..' in its path")
    return scheme, parts


def place_apart(uri: str) -> Place:
    """The true place, or for what can't be followed one of its own: it keeps nobody from others."""
    try:
        return true_place(uri)
    except RhocacheError:
        return "", (uri,)


def _check_under(uri: str, roots: Sequence[str], places: Sequence[Place]) -> None:
    place = true_place(uri)
    if not any(is_under(place, root) for root in places):
        raise UriNotAllowed(f"{uri!r} is not under an allowed root ({', '.join(roots)})")


def is_under(place: Place, root: Place) -> bool:
    """Whether a place is another one, or lies in it."""
    return place[0] == root[0] and place[1][: len(root[1])] == root[1]
