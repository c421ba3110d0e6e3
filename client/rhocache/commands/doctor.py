"""``doctor``: what of this machine is ready for rhocache, and what to do about the rest."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import httpx
import typer
from rich.console import Console

from rhocache.commands import options, tables
from rhocache.commands.extras import install
from rhocache_schemas import storage
from rhocache_schemas.errors import RhocacheError

_PYTHON = (3, 11)
_ROOMS = {
    "workers": "ray",
    "service": "fastapi",
    "trainer": "lightning-fabric",
}  # a package of each
_LITTLE_DISK = 5e9  # bytes
_LITTLE_SHARED = 2e9  # bytes; Ray's objects go to the disk beyond it
_HUB = "https://huggingface.co"
_SECONDS = 5.0  # that the hub has to answer


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    state: Literal["ok", "note", "bad"]
    found: str
    advice: str = ""


def add_to(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    place: Annotated[
        str | None,
        typer.Option("--storage", help="Also write to this folder or URI, and read it again."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Tell what of this machine is ready, what to do about the rest; end with 1 for a fault."""
    checks = list(_all(place))
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks]))
    else:
        Console().print(tables.checks(checks))
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(1)


def _all(place: str | None) -> Iterator[Check]:
    yield _python()
    yield from (_room(name, package) for name, package in _ROOMS.items())
    for check in (_torch, _ray, _database, _hub, _disk):
        yield from check()
    if place is not None:
        yield _storage(place)


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()}, {os.cpu_count()} cores"
    if sys.version_info < _PYTHON:
        return Check("Python", "bad", found, "rhocache needs 3.11 or newer")
    return Check("Python", "ok", found)


def _room(name: str, package: str) -> Check:
    try:
        return Check(name, "ok", f"{package} {version(package)}")
    except PackageNotFoundError:
        return Check(name, "note", "not installed", install(name))


def _torch() -> Iterator[Check]:
    try:
        import torch
    except ModuleNotFoundError:
        return
    yield Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        yield Check("GPU", "ok", ", ".join(names))
    elif shutil.which("nvidia-smi"):
        advice = "install a torch that is built for this machine's CUDA: pytorch.org/get-started"
        yield Check("GPU", "bad", "there is one, and torch can't use it", advice)
    else:
        yield Check("GPU", "note", "none: everything is computed on the cores")


def _ray() -> Iterator[Check]:
    shared = Path("/dev/shm")  # noqa: S108
    if shared.exists() and (free := shutil.disk_usage(shared).free) < _LITTLE_SHARED:
        yield Check(
            "shared memory", "note", f"{free / 1e9:.1f} GB in {shared}",
            "Ray is slower with less than 2 GB; in a container, give it --shm-size=4g",
        )  # fmt: skip
    if address := os.environ.get("RAY_ADDRESS"):
        advice = "rhocache joins a cluster by --ray-address alone"
        yield Check("Ray", "note", f"RAY_ADDRESS is {address}", advice)


def _database() -> Iterator[Check]:
    url = os.environ.get("RHOCACHE_DATABASE_URL")
    if url is None:
        return
    try:
        from rhocache_service.registry.tables import open_database, parse_url, shown
    except ModuleNotFoundError:
        yield Check("database", "note", "not looked at", install("service"))
        return
    try:
        parsed = parse_url(url)
        open_database(parsed).dispose()
        yield Check("database", "ok", shown(parsed))
    except RhocacheError as error:
        yield Check("database", "bad", str(error), "RHOCACHE_DATABASE_URL says where it is")


def _hub() -> Iterator[Check]:
    if os.environ.get("HF_HUB_OFFLINE"):
        yield Check("hub", "note", "HF_HUB_OFFLINE is set: only what was fetched before is found")
        return
    url = os.environ.get("HF_ENDPOINT", _HUB)
    try:
        httpx.head(url, timeout=_SECONDS, follow_redirects=True)
        yield Check("hub", "ok", url)
    except httpx.HTTPError as error:
        advice = (
            "named models can't be fetched; use local-dir:FOLDER, or set HF_ENDPOINT to a mirror"
        )
        yield Check("hub", "note", f"{url} does not answer: {error}", advice)


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(Path.cwd()).free
    few = free < _LITTLE_DISK
    advice = "a cache takes about 2 GB for a million pairs; `rhocache plan` says it exactly"
    found = f"{free / 1e9:,.0f} GB free in {Path.cwd()}"
    yield Check("disk", "note" if few else "ok", found, advice if few else "")
    if not os.access(Path.cwd(), os.W_OK):
        yield Check("folder", "bad", f"{Path.cwd()} can't be written to", "work in another folder")


def _storage(place: str) -> Check:
    uri, content = storage.join(place, ".rhocache-doctor"), b"rhocache doctor"
    try:
        storage.write_atomic(uri, content)
        same = storage.read_bytes(uri) == content
        storage.delete(uri)
    except RhocacheError as error:
        return Check("storage", "bad", str(error), "see docs/service.md for credentials of stores")
    if not same:
        return Check("storage", "bad", f"{place} gives back other bytes than were written", "")
    return Check("storage", "ok", f"{place} can be written, read and deleted")
