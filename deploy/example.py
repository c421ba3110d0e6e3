"""Lays what comes with rhocache where a composed service finds it: 2,048 pairs and a reference."""

import shutil
import sys
from importlib.resources import files
from pathlib import Path

from pyarrow import fs

from rhocache_schemas import storage

DATASET, REFERENCE = "s3://rhocache/icons", "/references/icons"

if __name__ == "__main__":
    shipped = Path(str(files("rhocache"))) / "examples"
    there, folder = storage.resolve(DATASET)
    fs.copy_files(str(shipped / "icons"), folder, destination_filesystem=there)
    shutil.copytree(shipped / "reference", REFERENCE, dirs_exist_ok=True)
    sys.stdout.write(f"{DATASET} and {REFERENCE} are there\n")
