"""Prints what rhocache and some of its extras need, from pyproject.toml, for pip to read.

An image installs that before rhocache itself: what changes daily then rebuilds its last layer only.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
needed = [*project["dependencies"]]
for extra in sys.argv[1:]:
    needed += project["optional-dependencies"][extra]
sys.stdout.writelines(f"{each}\n" for each in sorted(set(needed)))
