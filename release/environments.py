"""Makes environments of the wheel and what its extras need, of links to what is installed here."""

import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

# By what is installed together: hf is for references that the workers encode.
EXTRAS = ("none", "workers", "service", "trainer", "workers,hf", "ray-train", "all")


def unpack(wheel: Path, folder: Path) -> Distribution:
    """Install a wheel, and nothing that it needs, into a folder; return it."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # Found by its name: pip notes the path of what is given by its path.
    options = ["--no-deps", "--no-index", f"--find-links={wheel.parent}", f"--target={folder}"]
    subprocess.run([*pip, *options, "rhocache"], check=True)
    (unpacked,) = distributions(path=[str(folder)])
    return unpacked


def needed(wheel: Distribution, extras: str) -> list[Distribution]:
    """Return the wheel and all that is installed with these extras of it, separated by commas."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()

    def add(parent: Distribution, extra: str) -> None:
        if (parent.name, extra) in seen:
            return
        seen.add((parent.name, extra))
        found[parent.name] = parent
        for requirement in map(Requirement, parent.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                child = distribution(requirement.name)
                for more in ("", *requirement.extras):
                    add(child, more)

    for extra in extras.split(","):
        add(wheel, extra)
    return list(found.values())


def link(parts: list[Distribution], folder: Path) -> Path:
    """Make an environment in which these distributions alone are installed; return its Python."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for part in parts:
        for name in {file.parts[0] for file in part.files or []} - {"..", "bin", "__pycache__"}:
            if not (packages / name).exists():  # as a folder that several have a part in
                (packages / name).symlink_to(str(part.locate_file(name)))
    return folder / "bin" / "python"
