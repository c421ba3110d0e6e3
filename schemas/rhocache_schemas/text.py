"""Text as a terminal, a log or a report may show it: printable, and with no secret in it."""

import os
import re
from traceback import format_exception

LONGEST = 4000  # characters of a message; the middle of a longer one is left out
_LOOKED_AT = 16 * LONGEST

_HIDDEN = "***"
_SHORTEST = 8  # of a value of the environment: a shorter one occurs in honest words
_SECRET_VARIABLE = re.compile(r"(SECRET|TOKEN|PASSWORD|PASSWD|KEY|KEY_ID)$", re.IGNORECASE)
_PATTERNS = (
    # user:password@ of a URI, slashes in the password included, but no port and path
    (
        re.compile(r"(?<=://)(?:[^\s/@:]{0,200}:(?!\d{1,5}(?:/|$))\S{1,500}@|[^\s/@]{1,500}@)"),
        f"{_HIDDEN}@",
    ),
    # ?access_key=... of a URI, and password=... of a connection string
    (
        re.compile(
            r"(?i)([?&;][\w.%-]{0,64}(?:secret|token|passw|pwd|sig|credential|key|auth)[\w.%-]{0,64}="
            r"|\bpassword\s{0,3}=\s{0,3})[^\s&;#'\"]+"
        ),
        rf"\1{_HIDDEN}",
    ),
    (re.compile(r"(?i)\b(bearer|basic) [\w.~+/=-]{16,}"), rf"\1 {_HIDDEN}"),
    (re.compile(r"\b(rhk_[0-9a-f]{16})_[\w-]+"), rf"\1_{_HIDDEN}"),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), _HIDDEN),
)
# Controls (C0, DEL, C1) move the cursor, recolour or retitle a terminal and forge lines of a log;
# the separators end lines elsewhere; what turns the direction of writing shows text in another
# order than it has; zero-width ones hide text; halves of a surrogate pair can't be written at all.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""Return ``text`` with the characters that could fool a reader as Python escapes: ``\x1b``.

    Line ends and tabs are among them. Text that is printable already is returned as it is.
    """
    return _UNPRINTABLE.sub(lambda found: _escape(found[0]), text)


def printable_lines(text: str) -> str:
    """Return the same for a text of several lines that are meant, such as a traceback."""
    return "\n".join(map(printable, text.split("\n")))


def _escape(character: str) -> str:
    return ascii(character)[1:-1]


def redact(text: str) -> str:
    """Return a text without the credentials in it, as far as they can be told from words.

    Those in URIs, API keys, and what the environment has in variables like AWS_SECRET_ACCESS_KEY.
    """
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, _HIDDEN)
    return text


def tell(text: str) -> str:
    """Return a text as a message may show it: redacted, printable, and no longer than LONGEST."""
    return _cut(redact(printable(_cut(text, _LOOKED_AT))), LONGEST)


def tell_crash(error: BaseException) -> str:
    """Return the traceback of a fault of ours, which may quote a dataset: redacted, printable."""
    return printable_lines(redact("".join(format_exception(error))))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def has_secrets(uri: str) -> bool:
    """Whether a URI carries credentials, before its host or in its query."""
    return any(pattern.search(uri) for pattern, _ in _PATTERNS[:2])
