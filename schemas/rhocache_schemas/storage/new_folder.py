"""A folder that is there whole, or not at all."""

import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.storage import TEMPORARY, failure, resolve, scheme


@contextmanager
def new_folder(uri: str) -> Generator[str]:
    """Yield a folder to write to, which is at ``uri`` once the block has ended without an error.

    Locally it lies beside it under a hidden name until then. In an object store, which renames
    nothing, files are written in place: the last of them must be the one that counts.

    Raises InvalidInput where something is at ``uri`` already, and StorageError.
    """
    filesystem, path = resolve(uri)
    try:
        there = filesystem.get_file_info(path).type == fs.FileType.File or bool(
            filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
        )
    except OSError as error:
        raise failure(f"cannot look into {uri}", error) from error
    if there:
        raise InvalidInput(f"{uri} is there already: name a folder that is not, or delete it first")
    if scheme(uri) != "file":
        yield uri
        return
    target = Path(path)
    building = target.with_name(f".{target.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with _errors(uri):
            building.mkdir(parents=True)
        yield str(building)
        with _errors(uri):
            building.rename(target)  # over an empty folder at most
    finally:
        shutil.rmtree(building, ignore_errors=True)


@contextmanager
def _errors(uri: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise failure(f"cannot write {uri}", error) from error
