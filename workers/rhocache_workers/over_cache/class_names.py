"""Reads the names of classes, and lines of a text file."""

import json
from collections import Counter

from rhocache_schemas import storage
from rhocache_schemas.errors import InvalidInput


def read_classes(location: str) -> list[str]:
    """Return the names of a text file, one a line, or of a file .json that holds a list of them.

    Raises InvalidInput for a file of another kind and a name that comes twice, and StorageError.
    """
    names = _listed(location) if location.lower().endswith(".json") else read_lines(location)
    for name, times in Counter(names).most_common(1):
        if times > 1:
            raise InvalidInput(f"{location} has the class {name!r} twice")
    return names


def read_lines(location: str) -> list[str]:
    """Return the lines that are not blank, stripped. Raises InvalidInput and StorageError."""
    lines = [line.strip() for line in _text(location).splitlines() if line.strip()]
    if not lines:
        raise InvalidInput(f"{location} has no line with anything in it")
    return lines


def _listed(location: str) -> list[str]:
    try:
        found = json.loads(_text(location))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{location} is no JSON: {error}") from error
    if not found or not isinstance(found, list) or not all(isinstance(n, str) for n in found):
        raise InvalidInput(f"{location} is no JSON list of class names, each a string")
    return found


def _text(location: str) -> str:
    try:
        return storage.read_bytes(location).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{location} is not UTF-8") from error
