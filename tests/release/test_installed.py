"""The wheel in dist, installed by pip in an empty environment for each extra, and used there.

Run by ``make dist-check``, which takes half an hour and 7 GB: an environment is gone before the
next one is made.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from packaging.utils import canonicalize_name

from release.sbom import file_of

from ..service.conftest import free_port
from .conftest import IMPORTS, ROOT

pytestmark = pytest.mark.by_hand

BASE = ["rhocache", "rhocache_schemas"]
ICONS = ["examples/icons", "--shards=00000.tar"]
REFERENCE = ["--model=local-dir:examples/reference"]
TRAIN = ["train", "examples/configs/drrho.yaml", "data.shards=00000.tar", "epochs=1", "output=run"]
# Installed with every environment, and needed by nothing that rhocache brings.
PIP = {"pip", "setuptools"}


class Installed:
    """An environment of the wheel with some extras, in whose folder nothing else is."""

    def __init__(self, extras: str, place: Path) -> None:
        self.extras = extras
        self.folder = place / "empty"
        self.folder.mkdir()
        self.bin = place / "environment" / "bin"
        self._environment = {  # the checkout's rooms are on the tests' path
            name: value for name, value in os.environ.items() if name != "PYTHONPATH"
        } | {"HF_HUB_OFFLINE": "1"}
        venv.create(self.bin.parent, with_pip=True)
        (wheel,) = (ROOT / "dist").glob("*.whl")
        started = time.monotonic()
        wanted = str(wheel) if extras == "none" else f"{wheel}[{extras}]"
        # What is used is compiled then; all of torch's would take a minute.
        options = ["--quiet", "--no-compile", f"--constraint={ROOT / 'constraints.txt'}"]
        self.run("pip", "install", *options, wanted)
        self.seconds = time.monotonic() - started

    def run(self, *words: str | Path, code: int = 0) -> str:
        """Run one of the environment's commands and return what it prints."""
        command = [self.bin / words[0], *words[1:]]
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stderr

    def rhocache(self, *words: str | Path, code: int = 0) -> str:
        return self.run("rhocache", *words, code=code)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Run the service until the block ends, from when it is ready on; gives its URL."""
        port, path = free_port(), self.folder / "serve.log"
        command = [self.bin / "rhocache", "serve", f"--port={port}"]
        with (
            path.open("wb") as log,
            subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, env=self._environment
            ) as served,
        ):
            try:
                while not answers(url := f"http://127.0.0.1:{port}"):
                    assert served.poll() is None, path.read_text()
                    time.sleep(0.5)
                yield url
            finally:
                served.terminate()

    def check(self, *rooms: str) -> None:
        """Nothing is missing, nothing is there that the SBOM does not list, and all imports."""
        self.run("pip", "check")
        listed = json.loads(self.run("pip", "list", "--format=json"))
        sbom = json.loads((ROOT / "dist" / file_of(self.extras)).read_text())
        told = [sbom["metadata"]["component"], *sbom["components"]]
        found, expected = (
            {(canonicalize_name(each["name"]), each["version"]) for each in parts}
            for parts in (listed, told)
        )
        assert {name for name, _ in found ^ expected} <= PIP
        assert self.run("python", "-I", IMPORTS, *BASE, *rooms) == "{}"
        self.rhocache("--help")
        size = sum(path.lstat().st_size for path in self.bin.parent.rglob("*"))
        sys.stdout.write(
            f"\n| `{self.extras}` | {len(found)} | {size / 1e6:,.0f} | {self.seconds:.0f} |\n"
        )

    def unpack(self) -> None:
        """Lay the shipped examples where README.md has them, out of the wheel."""
        (shipped,) = self.bin.parent.glob("lib/*/site-packages/rhocache/examples")
        shutil.copytree(shipped, self.folder / "examples")


@pytest.fixture
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installed]:
    yield Installed(request.param, tmp_path)
    shutil.rmtree(tmp_path)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False


def with_extras(extras: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("installed", [extras], indirect=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 1,024 icons, made by the checkout."""
    cache = tmp_path_factory.mktemp("cache") / "icons"
    score = [sys.executable, "-m", "rhocache", "score", *ICONS, *REFERENCE, "--here"]
    subprocess.run([*score, f"--out={cache}"], cwd=ROOT, check=True, capture_output=True)
    return cache


@with_extras("none")
def test_a_client_and_a_look_at_a_cache(installed: Installed, cache: Path) -> None:
    installed.check()
    for command in commands_of(installed):
        installed.rhocache(*command, "--help")
    assert json.loads(installed.rhocache("inspect", cache, "--json"))["ok"] == 1024
    assert str(cache) in installed.rhocache("caches", cache.parent, "--json")
    for words, extra in (
        (["score", *ICONS, *REFERENCE, "--out=o"], "workers"),
        (["serve"], "service"),
        (TRAIN, "trainer"),
    ):
        assert f"needs the {extra} extra" in installed.rhocache(*words, code=1)


def commands_of(installed: Installed) -> list[list[str]]:
    """Every command, as the installed one lists them."""
    code = """
import json, typer.main
from rhocache.cli import app
def walk(command, words):
    yield words
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, [*words, name])
print(json.dumps(list(walk(typer.main.get_command(app), []))))
"""
    return json.loads(installed.run("python", "-c", code))


@with_extras("workers")
def test_scoring(installed: Installed) -> None:
    installed.check("rhocache_workers")
    installed.unpack()
    installed.rhocache("plan", "examples/icons", *REFERENCE)
    installed.rhocache("score", *ICONS, *REFERENCE, "--out=cache")
    installed.rhocache("score", *ICONS, *REFERENCE, "--out=here", "--here")
    installed.rhocache("verify", "cache", "--dataset=examples/icons", "--deep")
    of_ray, here = (
        json.loads(installed.rhocache("inspect", cache, "--json")) for cache in ("cache", "here")
    )
    assert of_ray["ok"] == here["ok"] == 1024
    assert of_ray["fingerprint"] == here["fingerprint"]


@with_extras("service")
def test_serving(installed: Installed) -> None:
    installed.check("rhocache_service")
    with installed.serve() as url:
        document = httpx.get(f"{url}/openapi.json").json()
        assert document == json.loads((ROOT / "docs" / "openapi.json").read_text())
        assert "<html" in httpx.get(url, headers={"accept": "text/html"}).text
        listed = json.loads(installed.rhocache("jobs", "list", f"--url={url}", "--json"))
        assert listed["data"] == []


@with_extras("trainer")
def test_training(installed: Installed, cache: Path) -> None:
    installed.check("rhocache_trainer")
    installed.unpack()
    installed.rhocache(*TRAIN, f"cache={cache}")
    installed.rhocache("evaluate", "run/model", "examples/icons", "--shards=00002.tar")
    installed.rhocache("report", "run")
    assert (installed.folder / "report.html").exists()


@with_extras("workers,hf")
def test_scoring_with_a_text_tower_of_transformers(
    installed: Installed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from ..workers.reference.test_architectures import hf_reference

    reference = tmp_path_factory.mktemp("reference")
    hf_reference(reference, "xlm-roberta")
    installed.check("rhocache_workers")
    installed.unpack()
    model = f"--model=local-dir:{reference}"
    installed.rhocache("score", *ICONS, model, "--limit=64", "--out=cache", "--here")
    assert json.loads(installed.rhocache("inspect", "cache", "--json"))["ok"] == 64


@with_extras("ray-train")
def test_training_on_ray(installed: Installed, cache: Path) -> None:
    installed.check("rhocache_trainer")
    installed.unpack()
    installed.rhocache(*TRAIN, f"cache={cache}", "--launcher=ray", "--processes=2")
    assert (installed.folder / "run" / "model" / "open_clip_config.json").exists()


@with_extras("all")
def test_everything(installed: Installed) -> None:
    installed.check("rhocache_workers", "rhocache_service", "rhocache_trainer")
    installed.rhocache("quickstart")
    with installed.serve() as url:
        submit = ["submit", *ICONS, *REFERENCE, "--out=submitted", f"--url={url}", "--wait"]
        installed.rhocache(*submit)
    assert json.loads(installed.rhocache("inspect", "submitted", "--json"))["ok"] == 1024
