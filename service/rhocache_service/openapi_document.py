"""``python -m rhocache_service.openapi_document`` prints the OpenAPI document."""

import json
import sys
import tempfile
from pathlib import Path

from rhocache_service.app import create_app
from rhocache_service.settings import Settings


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data_dir=Path(folder)))
        sys.stdout.write(json.dumps(app.openapi(), indent=1) + "\n")


if __name__ == "__main__":
    main()
