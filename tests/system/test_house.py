"""What the files at the top of the repository promise is true of the code."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer.main
from packaging.requirements import Requirement

from rhocache.cli import app

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def check_command(line: str) -> None:
    """A line that begins with ``rhocache`` names a real sub-command, and only flags that it has."""
    words = line.split()[1:]
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words, f"{line!r} stops at a group"
        assert words[0] in command.commands, f"no command {words[0]!r} in {line!r}"
        command = command.commands[words.pop(0)]
    known = {flag for parameter in command.params for flag in parameter.opts}
    used = {word.partition("=")[0] for word in words if re.match(r"--\w", word)}
    assert used <= known, f"{line!r}: {used - known} not among {sorted(known)}"


def commands_of(markdown: str) -> list[str]:
    """Lines of fenced blocks: text outside them may begin with ``rhocache`` too."""
    blocks = markdown.split("```")[1::2]
    return re.findall(r"^rhocache .*$", "".join(blocks), re.MULTILINE)


@pytest.mark.parametrize(
    "line",
    [
        line
        for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
        for line in commands_of(path.read_text())
    ],
)
def test_the_commands_of_the_documents_exist(line: str) -> None:
    check_command(line)


def test_every_dependency_is_pinned_within_its_range() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().lower().replace("_", "-").split()
    )
    extras = [r for group in PROJECT["optional-dependencies"].values() for r in group]
    for text in PROJECT["dependencies"] + extras:
        requirement = Requirement(text)
        name = requirement.name.lower().replace("_", "-")
        if name != "rhocache":
            assert requirement.specifier.contains(pins[name]), text


def test_nothing_large_is_in_git() -> None:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    sizes = {name: (ROOT / name).stat().st_size for name in files.stdout.decode().split("\0")[:-1]}
    assert {name: size for name, size in sizes.items() if size > 10_000_000} == {}


def test_the_paths_that_the_walks_name_exist() -> None:
    named = re.findall(r"`(\w+/[\w/]+\.py)`", (ROOT / "docs" / "architecture.md").read_text())
    assert len(named) > 30
    assert [path for path in named if not (ROOT / path).is_file()] == []
