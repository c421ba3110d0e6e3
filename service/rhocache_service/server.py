"""Runs the service in uvicorn, from its start to an end in good order."""

import logging
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry, start_http_server

from rhocache_schemas import storage
from rhocache_schemas.errors import StorageError
from rhocache_schemas.variables import tell_unknown
from rhocache_service import logs
from rhocache_service.app import create_app
from rhocache_service.registry.api_keys import Keys
from rhocache_service.registry.notifier import Changes
from rhocache_service.registry.tables import open_database, shown
from rhocache_service.scheduling.embedded_ray import try_lock
from rhocache_service.settings import Settings, unknown_secrets

log = logging.getLogger("rhocache_service")


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises InvalidInput for settings that are not safe, StorageError when the data dir can't be
    written, the port is taken, or the registry can't be opened.
    """
    logs.configure()
    for line in (*tell_unknown(os.environ), *unknown_secrets()):
        log.warning(line)
    settings.check(has_keys=_has_keys(settings))
    with _own(settings.data_dir), _bound(settings.host, settings.port) as listener:
        app = create_app(settings)
        if settings.metrics_port is not None:
            _serve_metrics(settings.host, settings.metrics_port, app.state.metrics)
        if not app.state.keys.exist():
            log.warning("no API keys: whoever can reach %s may do everything", settings.host)
        log.info("listening on http://%s", _address(settings.host, settings.port))
        log.info("data in %s", settings.data_dir.absolute())
        log.info("registry %s", shown(app.state.registry.engine.url))
        log.info("Ray %s", settings.ray_address or "of its own, on loopback")
        log.info("jobs may name places under %s", ", ".join(settings.roots))
        config = uvicorn.Config(
            app,
            log_config=None,  # its log goes the way of ours, which leaves out secrets
            log_level="warning",
            timeout_graceful_shutdown=10,
            proxy_headers=False,  # proxies.py has them
        )
        _Server(config, app.state.changes).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Answers those who wait before it ends."""

    def __init__(self, config: uvicorn.Config, changes: Changes) -> None:
        super().__init__(config)
        self._changes = changes

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._changes.close()
        await super().shutdown(sockets)


def _has_keys(settings: Settings) -> bool:
    """Whether there are API keys, without making a registry where there is none."""
    if settings.database_url is None and not settings.registry_file.exists():
        return False
    engine = open_database(settings.registry_url)
    try:
        return Keys(engine).exist()
    finally:
        engine.dispose()


@contextmanager
def _own(data_dir: Path) -> Generator[None]:
    """Make the data dir, and keep another service out of it."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = try_lock(data_dir / "service.lock")
    except OSError as error:
        raise storage.failure(f"cannot write in {data_dir}", error) from error
    if lock is None:
        raise StorageError(f"another rhocache serve uses {data_dir}; give another --data-dir")
    try:
        yield
    finally:
        os.close(lock)


def _bound(host: str, port: int) -> socket.socket:
    """Bind before anything else is started, so that a taken port costs nothing."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        where = _address(host, port)
        raise StorageError(f"cannot listen on {where}: {error.strerror}") from error
    return listener


def _serve_metrics(host: str, port: int, registry: CollectorRegistry) -> None:
    """Answer Prometheus on a port of its own, which no proxy shows, until the process ends."""
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        where = _address(host, port)
        raise StorageError(f"cannot listen on {where}: {error.strerror}") from error
    log.info("metrics on http://%s/metrics", _address(host, port))


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
