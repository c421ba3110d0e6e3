"""The wheel and the sdist of the working tree, built once, without a download."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMPORTS = Path(__file__).with_name("imports.py")


def build(source: Path, out: Path, *options: str) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", f"--outdir={out}", *options]
    done = subprocess.run(
        [*command, source], env=os.environ | {"SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``make dist`` does it: the sdist of the tree, the wheel of the sdist."""
    return build(ROOT, tmp_path_factory.mktemp("dist"))
