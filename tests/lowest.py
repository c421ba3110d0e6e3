"""Print the lowest versions that pyproject.toml promises, as pip's constraints."""

import re
import tomllib
from pathlib import Path

LOWEST = re.compile(r"(?P<name>[\w.-]+)(\[[\w,-]+\])?>=(?P<version>[\w.]+)")


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    promised = [project["dependencies"], *project["optional-dependencies"].values()]
    found = {LOWEST.match(requirement) for extra in promised for requirement in extra}
    print(*sorted({f"{match['name']}=={match['version']}" for match in found if match}), sep="\n")


if __name__ == "__main__":
    main()
