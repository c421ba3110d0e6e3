"""Text from datasets, models and users, as it may reach a terminal or a log."""

import re

# Controls (C0, DEL, C1) move the cursor, recolour or retitle a terminal and forge lines of a log;
# the separators end lines elsewhere; what turns the direction of writing shows text in another
# order than it has; zero-width ones hide text; halves of a surrogate pair can't be written at all.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""Give ``text`` with the characters that could fool a reader as Python escapes: ``\x1b``.

    Line ends and tabs are among them. Text that is printable already is given back as it is.
    """
    return _UNPRINTABLE.sub(lambda found: _escape(found[0]), text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines that are meant, such as a traceback."""
    return "\n".join(map(printable, text.split("\n")))


def _escape(character: str) -> str:
    return ascii(character)[1:-1]
