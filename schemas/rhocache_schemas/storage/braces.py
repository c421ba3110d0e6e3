"""Brace patterns, ``{00000..00099}.tar``: counted before they are expanded, as webdataset does it.

A few characters can name more shards than any machine has memory for, and the library expands all
of them at its first step.
"""

import math
import re
from collections.abc import Iterator
from itertools import pairwise

from braceexpand import braceexpand

from rhocache_schemas.errors import DatasetError, InvalidInput

MOST = 1_000_000  # names of a pattern
MOST_CHARACTERS = 1 << 28  # of all of them together
DEEPEST = 8  # braces within braces

_NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?$")
_LETTERS = re.compile(r"[A-Za-z]\.\.[A-Za-z](?:\.\.-?\d+)?$")
_SIGN = re.compile(r"\\.|[{},]", re.DOTALL)

_Size = tuple[int, int]  # how many names, and their characters together


def expand(pattern: str) -> list[str]:
    """Yield each name of a pattern once, in order.

    Raises InvalidInput for more names than MOST, and DatasetError for braces that don't match.
    """
    check(pattern)
    try:
        return list(dict.fromkeys(braceexpand(pattern)))
    except ValueError as error:
        raise DatasetError(f"unbalanced braces: {pattern!r}") from error


def check(pattern: str) -> None:
    """Raises InvalidInput for a pattern that stands for more names than MOST, or names none."""
    if max((level for *_, level in _braces(pattern)), default=0) > DEEPEST:
        raise InvalidInput(f"braces may lie {DEEPEST} deep: {pattern!r}")
    try:
        count, characters = _size(pattern)
    except ValueError as error:  # a number of more digits than Python reads
        raise InvalidInput(f"{pattern!r} is no brace pattern: {error}") from error
    if count > MOST or characters > MOST_CHARACTERS:
        raise InvalidInput(
            f"a pattern may stand for {MOST:,} names of {MOST_CHARACTERS:,} characters, "
            f"not for {_about(count)} of {_about(characters)}: {pattern!r}"
        )


def _size(pattern: str) -> _Size:
    """A sequence of literals and expressions: each name of one with each of the next."""
    count, characters, start, opened = 1, 0, 0, 0
    for position, character, level in _braces(pattern):
        if character == "{" and level == 1:
            characters += count * (position - start)
            opened = position + 1
        elif character == "}" and level == 0:
            more, longer = _expression_size(pattern[opened:position])
            count, characters = count * more, characters * more + count * longer
            start = position + 1
        if count > MOST:  # enough is known, and numbers of a million digits take their time
            return count, characters
    return count, characters + count * (len(pattern) - start)


def _expression_size(expression: str) -> _Size:
    """What lies between two braces: a range, alternatives, or text that keeps its braces."""
    if match := _NUMBERS.match(expression):
        first, last, step = int(match[1]), int(match[2]), int(match[3] or 1) or 1
        count = abs(last - first) // step + 1
        return count, count * max(len(match[1]), len(match[2]))
    if _LETTERS.match(expression):
        count = sum(1 for _ in braceexpand(f"{{{expression}}}"))
        return count, count
    commas = [at for at, sign, level in _braces(expression) if sign == "," and level == 0]
    if not commas:
        count, characters = _size(expression)
        return count, characters + 2 * count
    edges = [-1, *commas, len(expression)]
    parts = [expression[a + 1 : b] for a, b in pairwise(edges)]
    sizes = [_size(part) for part in parts]
    return sum(count for count, _ in sizes), sum(characters for _, characters in sizes)


def _braces(pattern: str) -> Iterator[tuple[int, str, int]]:
    """Each brace and comma that is not escaped: where, which, and how deep one is behind it."""
    level = 0
    for match in _SIGN.finditer(pattern):
        sign = match[0]
        if len(sign) == 1:
            level += (sign == "{") - (sign == "}")
            yield match.start(), sign, level


def _about(number: int) -> str:
    """A number in a few characters, however large."""
    return f"{number:,}" if number < 10**12 else f"over 10^{math.floor(math.log10(number))}"
