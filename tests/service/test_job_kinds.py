"""A kind of jobs that another package brings, by REST, by the command and on the page."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from rhocache_schemas.api import Job
from rhocache_schemas.job.kinds import UnknownKind
from rhocache_schemas.job.spec import JobState
from rhocache_schemas.table.reader import TableReader

from .conftest import COMMAND, Service, wait_until
from .made import make_cache

TOY = Path(__file__).parent / "toy_kind"
# What is added to the kind's spec is added nowhere else.
NEW_FIELD = """
    shade: Annotated[Literal["light", "dark"], Field(description="It changes nothing.")] = "light"
"""


@pytest.fixture(scope="module")
def installed(work: Path) -> dict[str, str]:
    """An environment in which the package is installed, with a field more."""
    folder = shutil.copytree(TOY, work / "site")
    with (folder / "counting" / "spec.py").open("a") as spec:
        spec.write(NEW_FIELD)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(scope="module")
def service(work: Path, reference_folder: Path, installed: dict[str, str]) -> Iterator[Service]:
    roots = [f"--allow-root={root}" for root in (work, reference_folder.parent)]
    service = Service(work / "data", *roots, "--max-running-jobs=2", environment=installed)
    try:
        service.start()
        yield service
        ray = service.ray_process()
        service.stop()
    finally:
        service.kill()
    with suppress(ProcessLookupError):
        os.killpg(ray, signal.SIGKILL)  # with the jobs that nobody waited for


@pytest.fixture(scope="module")
def page(service: Service, browser: Browser) -> Iterator[Page]:
    page = browser.new_page(base_url=service.url)
    yield page
    page.close()


def rest(service: Service, method: str, path: str, **body: Any) -> dict[str, Any]:
    answer = httpx.request(method, f"{service.url}/v1/jobs{path}", json=body or None)
    assert answer.is_success, answer.text
    return answer.json()


def end_of(service: Service, job: str) -> dict[str, Any]:
    """The job, once it is at an end."""
    wait_until(lambda: JobState(rest(service, "GET", f"/{job}")["status"]).terminal, service.log)
    return rest(service, "GET", f"/{job}")


def counted(output: Path) -> dict[str, int]:
    return json.loads((output / "count.json").read_text())


def test_by_rest(service: Service, dataset: Path, work: Path) -> None:
    (dataset / "torn.tar").unlink()  # which can't be counted
    asked = {"kind": "count", "dataset": str(dataset), "output": f"{work}/rest", "shade": "dark"}
    looked = rest(service, "POST", ":validate", **asked)
    assert (looked["shards"], looked["shards_committed"]) == (2, 0)
    job = rest(service, "POST", "", **asked, metadata={"a": "b"})
    done = end_of(service, job["id"])
    assert (done["status"], done["errors"]) == ("completed", [])
    assert {name: done["spec"][name] for name in asked} == asked
    assert (done["metadata"], done["fingerprint"]) == ({"a": "b"}, None)
    assert counted(work / "rest") == {"count": 513}
    assert rest(service, "GET", f"/{job['id']}/shards")["data"] == []
    assert httpx.get(f"{service.url}/v1/caches").json()["data"] == [], "it has made no cache"
    again = rest(service, "POST", f"/{job['id']}/retry")
    assert (again["retries"], again["spec"]) == (job["id"], job["spec"])


@pytest.mark.parametrize(
    ("change", "slug", "pointer"),
    [
        ({"kind": "os.system"}, "validation-failed", "/kind"),
        ({"kind": ["count"]}, "validation-failed", "/kind"),
        ({"entrypoint": "rm"}, "validation-failed", "/entrypoint"),
        ({"at_least": -1}, "validation-failed", "/at_least"),
        ({"output": "/etc"}, "uri-not-allowed", None),
        ({"beside": "/etc"}, "uri-not-allowed", None),
    ],
)
def test_what_is_refused(
    service: Service, dataset: Path, work: Path, change: dict, slug: str, pointer: str | None
) -> None:
    asked = {"kind": "count", "dataset": str(dataset), "output": f"{work}/refused"} | change
    answer = httpx.post(f"{service.url}/v1/jobs", json=asked).json()
    assert answer["type"] == f"/problems/{slug}"
    assert [error["pointer"] for error in answer["errors"]] == ([pointer] if pointer else [])


def test_why_it_failed(service: Service, dataset: Path, work: Path) -> None:
    asked = {"kind": "count", "dataset": str(dataset), "output": f"{work}/few", "at_least": 10**6}
    done = end_of(service, rest(service, "POST", "", **asked)["id"])
    detail = "513 pairs are fewer than 1000000"
    assert (done["status"], done["errors"]) == ("failed", [{"code": "job", "detail": detail}])


def test_a_job_waits_for_the_cache_that_it_reads(
    service: Service, dataset: Path, work: Path, reference_folder: Path
) -> None:
    (work / "alias").symlink_to(work)
    reference = {"model": f"local-dir:{reference_folder}"}
    made = {"dataset": str(dataset), "output": f"{work}/cache", "reference": reference}
    counting = {"kind": "count", "dataset": str(dataset), "beside": f"{work}/alias/cache"}
    score = rest(service, "POST", "", **made)
    count = rest(service, "POST", "", **counting, output=f"{work}/waited", priority=5)
    assert score["spec"]["kind"] == "score", "where none is named"
    done = end_of(service, count["id"])
    assert (done["status"], counted(work / "waited")) == ("completed", {"count": 513, "rows": 513})
    assert done["in_progress_at"] >= end_of(service, score["id"])["completed_at"]

    counting["beside"] = f"{work}/nobody"
    none = end_of(service, rest(service, "POST", "", **counting, output=f"{work}/never")["id"])
    assert (none["status"], none["errors"][0]["code"]) == ("failed", "cache-incomplete")
    assert "no job makes one there" in none["errors"][0]["detail"]


def test_a_job_over_a_cache(
    service: Service, page: Page, dataset: Path, work: Path, reference_folder: Path
) -> None:
    """It waits for its cache; its page shows what it has made; and that is deleted with it."""
    (dataset / "torn.tar").unlink(missing_ok=True)  # which would fail the job
    reference = {"model": f"local-dir:{reference_folder}"}
    made = {"dataset": str(dataset), "output": f"{work}/scored", "reference": reference}
    asked = {"kind": "losses", "cache": f"{work}/scored", "output": f"{work}/losses", "tau": 0.1}
    score = rest(service, "POST", "", **made)
    losses = rest(service, "POST", "", **asked)
    done = end_of(service, losses["id"])
    assert (done["status"], done["errors"], done["fingerprint"]) == ("completed", [], None)
    assert end_of(service, score["id"])["status"] == "completed"
    table = TableReader.open(f"{work}/losses")
    assert done["request_counts"]["completed"] == table.manifest.rows == 513
    shards = rest(service, "GET", f"/{losses['id']}/shards")["data"]
    assert {(shard["name"], shard["status"]) for shard in shards} == {
        (name, "committed") for name in table.shards
    }
    listed = httpx.get(f"{service.url}/v1/caches").json()["data"]
    assert f"{work}/losses" not in {cache["uri"] for cache in listed}

    page.goto(f"/jobs/{losses['id']}")
    expect(page.locator(".histogram")).to_have_count(3)
    expect(page.locator("#made ~ table").first).to_contain_text("shard")
    command = page.locator(".copied pre").first.text_content()
    assert str(command).startswith("rhocache jobs submit losses")

    looked = rest(service, "POST", ":validate", **asked)
    assert (looked["shards"], looked["shards_committed"], looked["pairs"]) == (2, 2, 513)
    other = httpx.post(f"{service.url}/v1/jobs", json=asked | {"tau": 0.2}).json()
    assert other["type"] == "/problems/table-mismatch"
    assert "tau (there: 0.1, now: 0.2)" in other["detail"]
    for tau in (0, -1):
        refused = httpx.post(f"{service.url}/v1/jobs", json=asked | {"tau": tau}).json()
        assert [error["pointer"] for error in refused["errors"]] == ["/tau"]

    gone = httpx.delete(f"{service.url}/v1/jobs/{losses['id']}", params={"with_output": True})
    assert gone.status_code == 204
    wait_until(lambda: not (work / "losses").exists(), service.log)
    assert (work / "scored" / "manifest.json").exists()


def run(installed: dict[str, str], *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | installed | {"COLUMNS": "200"}
    return subprocess.run(
        [COMMAND, *words], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


def test_by_the_command(
    service: Service, installed: dict[str, str], dataset: Path, work: Path
) -> None:
    submit = ["jobs", "submit", "count"]
    told = run(installed, *submit, "--help", cwd=work).stdout
    for field in ("--at-least", "0<=x<=1000000", "Only keys that begin so.", "light|dark"):
        assert field in told
    options = ["--out=command", "--prefix=lone", "--unit=captions", "--shade=dark"]
    options += ["--wait", "--json", f"--url={service.url}"]
    done = run(installed, *submit, "dataset", *options, cwd=work)
    assert done.returncode == 0, done.stderr
    job = Job.model_validate_json(done.stdout)
    assert (job.status, counted(work / "command")) == (JobState.COMPLETED, {"count": 1})
    # Who has not installed it sees it all the same.
    assert isinstance(job.spec, UnknownKind)
    assert job.spec.model_dump()["shade"] == "dark"
    told = run({}, "jobs", "show", job.id, f"--url={service.url}", cwd=work).stdout
    assert "completed" in told
    assert str(work / "command") in told
    failed = run(
        installed, *submit, "dataset", "--out=x", "--shade=grey", f"--url={service.url}", cwd=work
    )
    assert (failed.returncode, "shade: Input should be 'light' or 'dark'" in failed.stderr) == (
        2, True,
    )  # fmt: skip


def test_on_the_page(
    service: Service, installed: dict[str, str], page: Page, dataset: Path, work: Path
) -> None:
    page.goto("/submit")
    page.get_by_role("link", name="count").click()
    page.get_by_label("Dataset").fill(str(dataset))
    page.get_by_label("Output").fill(f"{work}/page")
    page.get_by_text("More settings").click()
    page.get_by_label("Unit").select_option("captions")
    page.get_by_label("Shade").select_option("dark")
    page.get_by_label("At least").fill("2")
    page.get_by_role("button", name="Plan it").click()
    expect(page.locator("#plan .tile").first).to_contain_text("2")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile("/jobs/job_"))
    expect(page.locator("[data-state]")).to_have_text("completed", timeout=1_000_000)
    first = page.url.rpartition("/")[2]
    facts = page.locator("dl.facts").inner_text()
    for fact in ("count", "captions", "dark", f"{work}/page"):
        assert fact in facts
    assert counted(work / "page")["count"] > 1

    command, curl = page.locator(".copied pre").all_text_contents()
    words = command.split()
    assert words[:4] == ["rhocache", "jobs", "submit", "count"]
    done = run(installed, *words[1:], "--json", cwd=work)
    assert done.returncode == 0, done.stderr
    sent = json.loads(re.search("{.*}", curl)[0])  # pyright: ignore
    page.get_by_text("With changes").click()
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile("/jobs/job_(?!" + first.removeprefix("job_") + ")"))
    third = page.url.rpartition("/")[2]
    spec = rest(service, "GET", f"/{first}")["spec"]
    assert json.loads(done.stdout)["spec"] == spec
    assert rest(service, "GET", f"/{third}")["spec"] == spec
    assert rest(service, "POST", "", **sent)["spec"] == spec


def test_the_openapi_document_has_it(service: Service) -> None:
    document = httpx.get(f"{service.url}/openapi.json").json()
    schema = document["components"]["schemas"]["CountSubmission"]
    assert schema["properties"]["shade"]["enum"] == ["light", "dark"]
    sent = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert {"$ref": "#/components/schemas/CountSubmission"} in sent["schema"]["anyOf"]


def test_kinds_over_a_cache_by_rest(service: Service, work: Path) -> None:
    """Near-duplicates of a cache, and a selection without them."""
    captions = {f"{number:03}": f"picture {number}" for number in range(6)}
    cache = make_cache(work / "scored", captions, missing="002").output
    asked = {"cache": cache, "output": f"{work}/near", "threshold": 0.9}
    done = end_of(service, rest(service, "POST", "", kind="neighbours", **asked)["id"])
    assert (done["status"], done["errors"]) == ("completed", [])
    rules = {"where": ["similarity=-0.4:", {"column": "similarity", "low": {"quantile": 0.1}}]}
    asked = {"cache": cache, "output": f"{work}/chosen", "duplicates": f"{work}/near"} | rules
    looked = rest(service, "POST", ":validate", kind="select", **asked)
    assert (looked["shards"], looked["pairs"]) == (1, 6)
    done = end_of(service, rest(service, "POST", "", kind="select", **asked)["id"])
    assert (done["status"], done["errors"]) == ("completed", [])
    assert done["spec"]["where"][0] == {"column": "similarity", "low": -0.4, "high": None}
    table = TableReader.open(f"{work}/chosen").as_table(["selected"]).to_pylist()
    assert [row["key"] for row in table if row["selected"]] == ["005"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"where": ["delta=0:"]}, "column 'delta' is none of similarity, negcliploss, normsim"),
        ({"where": ["similarity=q1.5:"]}, "less than or equal to 1"),
        ({"clusters": 3}, "clusters need a size"),
        ({}, "a selection needs a rule"),
    ],
)
def test_rules_that_lack_something_are_refused_at_once(
    service: Service, work: Path, asked: dict[str, Any], told: str
) -> None:
    spec = {"kind": "select", "cache": f"{work}/scored/cache", "output": f"{work}/none"} | asked
    answer = httpx.post(f"{service.url}/v1/jobs", json=spec)
    assert answer.status_code == 422
    assert told in answer.text
