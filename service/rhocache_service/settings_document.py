"""``python -m rhocache_service.settings_document`` prints docs/settings.md."""

import sys
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rhocache_schemas.variables import CLIENT, PREFIX
from rhocache_service.settings import Settings


def made() -> str:
    """Return the page: a table for each process that has variables, from its own model."""
    settings = [
        (f"{PREFIX}{name.upper()}", _shown(field.default), field.description)
        for name, field in Settings.model_fields.items()
    ]
    client = [(f"{PREFIX}{name}", description) for name, description in CLIENT.items()]
    loader = PackageLoader("rhocache_service", "templates")
    page = Environment(loader=loader, undefined=StrictUndefined, autoescape=False)  # noqa: S701
    return page.get_template("settings.md.j2").render(settings=settings, client=client)


def _shown(default: Any) -> str:
    if default in (None, "", []):
        return "–"
    return f"`{default.as_posix() if isinstance(default, Path) else default}`"


if __name__ == "__main__":
    sys.stdout.write(made())
