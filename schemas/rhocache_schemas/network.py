"""This machine's own addresses, and folders where its Unix sockets' paths fit in 107 bytes."""

import os
import re
import tempfile
from ipaddress import ip_address

from rhocache_schemas.errors import StorageError

_LONGEST_PATH = 107 if os.uname().sysname == "Linux" else 103  # bytes
# What Ray adds to the folder that it is given; the longest of its sockets' names.
RAY = len("/session_2026-12-31_23-59-59_999999_4194304/sockets/dash_TaskEventsHead")
MULTIPROCESSING = len("/pymp-12345678/listener-12345678")  # what Python's own adds
# What Ray passes on in command lines and URLs without quoting it.
_PLAIN = re.compile(r"[\w./+-]+", re.ASCII)


def is_loopback(host: str | None) -> bool:
    """Whether a host, by name or by address (brackets or not), is this machine by itself.

    No proxy leads there.
    """
    name = (host or "").strip("[]").rstrip(".").lower()
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def is_short(folder: str, room: int) -> bool:
    """Whether a socket may lie below ``folder``, with ``room`` more bytes in its path."""
    return len(os.fsencode(folder)) + room <= _LONGEST_PATH


def fits(folder: str, room: int) -> bool:
    """Whether Ray's sockets may lie below ``folder``, which it has to be able to pass on too."""
    return is_short(folder, room) and _PLAIN.fullmatch(folder) is not None


def short_folder(room: int) -> str:
    """Return a folder for temporary files that has ``room`` bytes left for a socket's path.

    That is what RAY_TMPDIR or TMPDIR names, or where its path is too long the system's own.

    Raises StorageError.
    """
    usual = (os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR"))
    folders = [folder for folder in (*usual, "/tmp", "/var/tmp", "/dev/shm") if folder]  # noqa: S108
    for folder in folders:
        if fits(folder, room) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise StorageError(
        f"no folder for sockets: their paths may have {_LONGEST_PATH} bytes, {room} below it, "
        f"and none of {', '.join(map(repr, folders))} is that short, plainly named and writable; "
        f"set TMPDIR to one of at most {_LONGEST_PATH - room} letters"
    )
