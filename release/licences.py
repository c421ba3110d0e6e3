"""``make licences``: docs/licences.md out of the SBOMs; an error for what may not come along."""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from release.environments import EXTRAS
from release.sbom import DIST, file_of

POLICY = Path(__file__).with_name("licences.toml")
PAGE = Path("docs/licences.md")
HEADER = """\
# Licences

Made by `make licences` of [the SBOMs](release.md), on Linux with an x86-64 processor: what pip
installs with each extra, at the versions of constraints.txt.
[licences.toml](../release/licences.toml) says what may be among them.

rhocache itself is Apache-2.0, and the wheel holds no code of these. It does hold 3,072 icons, under
the MIT, Apache 2.0 or ISC licence or CC0 as [sets.csv](../examples/icons/sets.csv) tells with their
authors, and [a reference](../examples/reference/README.md), trained on icons of more licences.
"""
Component = dict[str, Any]


class LicenceRefused(Exception):
    pass


def told(component: Component) -> list[str]:
    """Return what a component's metadata say of its licence: expressions, identifiers or names."""
    found: list[str] = []
    for each in component.get("licenses", []):
        licence = each.get("license", {})
        name = each.get("expression") or licence.get("id") or licence["name"]
        found.append(name.removeprefix("License :: ").removeprefix("OSI Approved :: "))
    return found


def licence_of(component: Component, policy: dict[str, Any]) -> str:
    """Return the licence under which a component comes along.

    Raises:
        LicenceRefused: The policy has none, or another than is told.
    """
    name, names = canonicalize_name(component["name"]), told(component)
    for other in policy["other"]:
        if name in other["packages"] and {*names} <= {*other["told"]}:
            return other["licence"]
    if not names and name in policy["read"]:
        return policy["read"][name]
    parts = {part for each in names for part in re.split(" AND | OR ", each)}
    if parts and parts <= {*policy["permissive"]}:
        return ", ".join(names)
    raise LicenceRefused(
        f"{component['name']} {component['version']} is under "
        f"{', '.join(names) or 'nothing told'}, which {POLICY.name} does not list: read its "
        "licence, and list it there with why it may come along, or do without the package"
    )


def rows(boms: dict[str, list[Component]], policy: dict[str, Any]) -> Iterator[str]:
    """Yield a line of the table for each package of these SBOMs, by extras."""
    parts = {canonicalize_name(part["name"]): part for bom in boms.values() for part in bom}
    for name, part in sorted(parts.items()):
        having = [extras for extras, bom in boms.items() if part in bom]
        listed = "every" if "none" in having else ", ".join(f"`{extras}`" for extras in having)
        yield f"| {name} | {part['version']} | {licence_of(part, policy)} | {listed} |"


def main() -> None:
    policy = tomllib.loads(POLICY.read_text())
    boms = {
        extras: json.loads((DIST / file_of(extras)).read_text())["components"] for extras in EXTRAS
    }
    try:
        table = list(rows(boms, policy))
    except LicenceRefused as refused:
        sys.exit(f"licences: {refused}")
    others = [
        f"- **{other['licence']}** ({', '.join(other['packages'])}): {other['why']}"
        for other in policy["other"]
    ]
    head = ["| package | version | licence | with |", "|---|---|---|---|"]
    PAGE.write_text("\n".join([HEADER, *others, "", *head, *table]) + "\n")


if __name__ == "__main__":
    main()
