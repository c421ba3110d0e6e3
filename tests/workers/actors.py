"""The processes in which Ray runs actors."""

from contextlib import suppress

import psutil


def actors(node: psutil.Process, kind: str = "Encoder") -> list[psutil.Process]:
    """Those below a node's process; what ends while it is looked at is none."""
    found: list[psutil.Process] = []
    for process in node.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith(f"ray::{kind}"):
                found.append(process)
    return found
