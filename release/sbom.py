"""``make sbom``: a CycloneDX document for each extra, of what is installed with it."""

import subprocess
import sys
import tempfile
from pathlib import Path

from release.environments import EXTRAS, link, needed, unpack

DIST = Path("dist")


def file_of(extras: str) -> str:
    """Return the name of the document for these extras."""
    return f"sbom-{extras.replace(',', '-')}.cdx.json"


def main(cyclonedx: str) -> None:
    """Write the documents beside the wheel, by this program of cyclonedx-bom."""
    (path,) = DIST.glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        wheel = unpack(path, Path(folder, "wheel"))
        for extras in EXTRAS:
            parts = needed(wheel, extras)
            python = link(parts, Path(folder, extras))
            out = DIST / file_of(extras)
            options = ["--pyproject=pyproject.toml", "--mc-type=library", "--output-reproducible"]
            valid = "--validate" if extras == "all" else "--no-validate"  # which takes it seconds
            command = [cyclonedx, "environment", *options, valid, f"--output-file={out}", python]
            subprocess.run(command, check=True)
            print(f"{out}: {len(parts)} packages")


if __name__ == "__main__":
    main(sys.argv[1])
