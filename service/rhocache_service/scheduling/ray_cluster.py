"""The Ray that jobs run in: the service's own, or a cluster that it was given."""

import sys
import threading

from rhocache_schemas.errors import RayUnreachable
from rhocache_schemas.text import printable, redact
from rhocache_service.scheduling.drivers import Drivers
from rhocache_service.scheduling.embedded_ray import EmbeddedRay
from rhocache_service.settings import Settings


class RayCluster:
    def __init__(self, settings: Settings) -> None:
        self._embedded = None if settings.ray_address else EmbeddedRay(settings.data_dir)
        self._given = settings.ray_address
        self._token = settings.ray_token
        self._roots = settings.roots
        self._address: str | None = None
        self._drivers: Drivers | None = None
        self._lock = threading.Lock()

    def drivers(self) -> Drivers:
        """The cluster's drivers; a Ray of our own that has died is started anew.

        Raises RayUnreachable when Ray can't be reached or started.
        """
        with self._lock:  # two threads must not start two Rays
            address = self._embedded.ensure_running() if self._embedded else self._given
            if address != self._address or self._drivers is None:
                python = sys.executable if self._embedded else "python"  # on another machine
                self._drivers = Drivers(str(address), self._headers(), python, self._roots)
                self._address = address
            return self._drivers

    def _headers(self) -> dict[str, str]:
        if self._embedded:
            return self._embedded.headers
        token = self._token.get_secret_value().strip() if self._token else None
        return {"Authorization": f"Bearer {token}"} if token else {}

    def log(self, job: str, start: int, most: int) -> list[str]:
        """Return the last lines that a job's driver printed, fit to be shown; none before a start.

        Raises JobError, also where Ray is not up.
        """
        if not start:
            return []
        if self._drivers is None:
            raise RayUnreachable("Ray, which keeps the log, is not running")
        lines = self._drivers.log(job, start)[-most:]
        return [redact(printable(line.expandtabs())) for line in lines]

    def ping(self) -> None:
        """Raise JobError where Ray is not up or not well, without starting it."""
        if self._drivers is None:
            raise RayUnreachable("Ray is still starting")
        self._drivers.ping()

    def stop(self) -> None:
        if self._embedded:
            self._embedded.stop()
