"""``make audit``: known vulnerabilities of all that is installed, each explained or an error."""

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from release.environments import EXTRAS
from release.sbom import DIST, file_of

EXPLAINED = Path(__file__).with_name("audit.toml")
OSV = "https://api.osv.dev/v1/query"


class AuditFailed(Exception):
    pass


def pins() -> list[str]:
    """Return all that the SBOMs list, as requirements."""
    boms = (json.loads((DIST / file_of(extras)).read_text()) for extras in EXTRAS)
    return sorted(
        {f"{each['name']}=={each['version']}" for bom in boms for each in bom["components"]}
    )


def ask(program: str, service: str, requirements: list[str]) -> list[dict[str, Any]]:
    """Return what OSV knows of each requirement, by this program of pip-audit.

    Raises:
        AuditFailed: It could not be asked of all of them.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write("\n".join(requirements))
        listed.flush()
        options = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]
        command = [program, *options, "--vulnerability-service=osv", f"--osv-url={service}"]
        done = subprocess.run(
            [*command, f"--requirement={listed.name}"], capture_output=True, text=True, check=False
        )
    try:  # it ends with 1 for what it finds, and for a service that it can't reach
        answered = json.loads(done.stdout)["dependencies"]
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise AuditFailed(f"{service} can't be asked, so nothing is known: {last}") from None
    if skipped := [each["name"] for each in answered if "vulns" not in each]:
        raise AuditFailed(f"nothing is known of {', '.join(skipped)}: {service} was not asked")
    if len(answered) != len(requirements):
        raise AuditFailed(f"{service} was asked of {len(answered)} of {len(requirements)} packages")
    return answered


def judge(answered: list[dict[str, Any]], explained: list[dict[str, str]]) -> list[str]:
    """Return a line for each finding and for each explanation of nothing that was found.

    Raises:
        AuditFailed: A finding is not explained.
    """
    lines: list[str] = []
    lacking: list[str] = []
    reasons = {(each["package"], each["id"]) for each in explained}
    used: set[tuple[str, str]] = set()
    for package in answered:
        for finding in package["vulns"]:
            names = sorted({finding["id"], *finding["aliases"]})
            fixed = ", ".join(finding["fix_versions"]) or "no version"
            line = f"{package['name']} {package['version']}: {', '.join(names)}, fixed in {fixed}"
            here = reasons & {(package["name"], name) for name in names}
            used |= here
            (lines if here else lacking).append(line)
    if lacking:
        raise AuditFailed("\n  ".join([f"{EXPLAINED.name} does not explain", *lacking]))
    unused = sorted(reasons - used)
    return [*lines, *(f"{name} of {package}: not found any more" for package, name in unused)]


def main(program: str) -> None:
    requirements = pins()
    try:
        answered = ask(program, os.environ.get("OSV_URL", OSV), requirements)
        lines = judge(answered, tomllib.loads(EXPLAINED.read_text())["explained"])
    except AuditFailed as failed:
        sys.exit(f"audit: {failed}")
    head = f"audit: {len(requirements)} packages, nothing that is not explained"
    print(head, *lines, sep="\n  ")


if __name__ == "__main__":
    main(sys.argv[1])
