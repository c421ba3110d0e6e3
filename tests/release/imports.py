"""Imports every module of some rooms and prints what fails: ``python -I imports.py ROOM ...``."""

import importlib
import json
import pkgutil
import sys
from importlib.util import find_spec

# What a room imports only where these are installed, too.
LATER = {
    "rhocache_schemas.weights.activation": "open_clip",
    "rhocache_schemas.weights.state_dict": "torch",
    "rhocache_trainer.training.ray": "ray",
}
RUN = "rhocache_service.registry.migrations.env"  # by Alembic, which is not to import it


def main(rooms: list[str]) -> dict[str, str]:
    failed: dict[str, str] = {}
    for room in rooms:
        package = importlib.import_module(room)
        if not package.__path__[0].startswith(sys.prefix):
            failed[room] = f"is outside of this environment: {package.__path__[0]}"
        for module in pkgutil.walk_packages(package.__path__, f"{room}."):
            later = LATER.get(module.name)
            if module.name == RUN or (later and find_spec(later) is None):
                continue
            try:
                importlib.import_module(module.name)
            except Exception as error:
                failed[module.name] = repr(error)
    return failed


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1:])))
