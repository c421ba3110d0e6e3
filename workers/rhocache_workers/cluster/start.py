"""Starts Ray on this machine, or joins one."""

import socket
from typing import Any

import ray
from tenacity import retry, retry_if_not_exception_type, stop_after_attempt

from rhocache_schemas import network
from rhocache_schemas.errors import JobError

_ANSWER_SECONDS = 10.0
_ATTEMPTS = 3


def start_ray(address: str | None) -> None:
    """Raises JobError."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            _start_own_ray(quiet)
        else:
            _check_answers(address)
            ray.init(address=address, **quiet)
    except Exception as error:
        where = f"join Ray at {address}" if address else "start Ray"
        raise JobError(f"cannot {where}: {one_line(error)}") from error


# A node whose own processes take more than 15 s to start, as on a busy machine, ends itself, and
# after 30 s Ray raises a bare Exception. No other try mends what has a type.
@retry(
    retry=retry_if_not_exception_type((OSError, RuntimeError, ValueError)),
    stop=stop_after_attempt(_ATTEMPTS),
    reraise=True,
)
def _start_own_ray(quiet: dict[str, Any]) -> None:
    folder = f"{network.short_folder(len('/ray') + network.RAY)}/ray"
    ray.init(address="local", include_dashboard=False, _temp_dir=folder, **quiet)


def _check_answers(address: str) -> None:
    """Ray itself tries for minutes to reach an address where nothing listens."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "://" not in address:
        host = host.removeprefix("[").removesuffix("]")  # of IPv6
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()


def one_line(error: BaseException) -> str:
    """Return what an error of Ray's says, which may be a page, in short."""
    return " ".join(str(error).split())[:300]
