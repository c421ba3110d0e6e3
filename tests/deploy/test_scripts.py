"""Shell scripts, by shellcheck; and what the batch script says where it can't work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [
    ".ci/release",
    ".ci/run",
    "deploy/slurm.sh",
    "deploy/test/postgres.sh",
    "examples/as-is.sh",
]


def test_every_script_is_listed() -> None:
    names = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    files = subprocess.run(names, cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    listed = [name for name in b"".join(files).decode().split("\n") if name]
    assert {name for name in listed if name.endswith(".sh")} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script: str) -> None:
    command = [Path(sys.executable).with_name("shellcheck"), "--severity=style", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [([], "give what rhocache score takes"), (["/data"], "run it with sbatch")],
)
def test_the_batch_script_says_what_is_missing(words: list[str], told: str) -> None:
    environment = {name: value for name, value in os.environ.items() if "SLURM" not in name}
    done = subprocess.run(
        ["bash", ROOT / "deploy" / "slurm.sh", *words], env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
