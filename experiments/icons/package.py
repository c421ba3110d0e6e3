"""The icon sets of the npm package ``@iconify/json``: their licences, and an SVG for each icon."""

import json
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VERSION = "2.2.535"
SIZE = 32  # pixels of a side


@dataclass(frozen=True, slots=True)
class IconSet:
    prefix: str
    title: str
    author: str
    licence: str  # by SPDX, where it has such a name
    url: str  # of the licence


def unpack(folder: Path, archive: Path | None) -> Path:
    """Unpack the package's JSON into ``folder``; return where its sets lie.

    Without an ``archive`` npm fetches it, and compares its hash with the registry's.
    """
    sets = folder / "package" / "json"
    if not (folder / "unpacked").exists():
        folder.mkdir(parents=True, exist_ok=True)
        if archive is None:
            name = f"@iconify/json@{VERSION}"
            packed = subprocess.run(
                ["npm", "pack", name, "--silent", "--pack-destination", folder],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            archive = folder / packed.stdout.split()[-1]
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        found = json.loads((folder / "package" / "package.json").read_text())["version"]
        if found != VERSION:
            raise SystemExit(f"{archive} has @iconify/json {found}; {VERSION} is wanted")
        (folder / "unpacked").touch()
    return sets


def icon_sets(package: Path) -> list[IconSet]:
    """Return the sets by their prefixes, in order."""
    sets: list[IconSet] = []
    for path in sorted(package.glob("*.json")):
        info = json.loads(path.read_bytes())["info"]
        licence = info["license"]
        sets.append(
            IconSet(
                prefix=path.stem,
                title=info["name"],
                author=info["author"]["name"],
                licence=licence.get("spdx") or licence["title"],
                url=licence.get("url", ""),
            )
        )
    return sets


def svgs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the SVG of each visible icon of a set, by name."""
    found = json.loads(path.read_bytes())
    for name, icon in sorted(found["icons"].items()):
        if icon.get("hidden"):
            continue
        left, top, width, height = (
            icon.get(side, found.get(side, default))
            for side, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        yield (
            name,
            (
                '<svg xmlns="http://www.w3.org/2000/svg" '
                'xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'width="{SIZE}" height="{SIZE}" viewBox="{left} {top} {width} {height}" '
                f'color="#000">{icon["body"]}</svg>'
            ),
        )
