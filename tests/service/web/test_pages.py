"""The pages in a real browser, with data that is hostile."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from playwright.sync_api import Browser, Page, expect

from rhocache_schemas.cache.documents import Fault, Progress
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.app import create_app
from rhocache_service.registry.jobs import Registry

from ..conftest import served, settings_without_ray
from ..made import SHARD, completed, make_cache
from ..reverse_proxy import Proxy

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'><svg onload=alert(3)>"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def spec(root: Path) -> ScoreSpec:
    captions = {f"{number:03}": f"picture {number}" for number in range(60)}
    return make_cache(root / "made", captions | {"evil": HOSTILE}, missing="007")


@pytest.fixture(scope="module")
def app(root: Path) -> FastAPI:
    return create_app(settings_without_ray(root))


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    with served(app) as url:
        yield url


@pytest.fixture
def registry(app: FastAPI) -> Registry:
    return app.state.registry


def test_a_job_goes_on_before_the_visitors_eyes(
    page: Page, registry: Registry, spec: ScoreSpec
) -> None:
    row = registry.advance(registry.add(spec, content_sha256="x"), JobState.QUEUED, shards=1)
    row = registry.advance(row, JobState.IN_PROGRESS)
    page.goto("/")
    line = page.locator("tr", has_text=row.id)
    expect(line.locator("[data-state]")).to_have_text("in progress")
    line.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(row.id)
    for second in range(3):
        progress = Progress(
            phase="encoding",
            shards_total=1,
            shards_in_progress=[SHARD],
            pairs_done=20 * second,
            pairs_per_second=10.0 + second,
            seconds_left=75.0,
            updated_at=float(second),
        )
        told = [("job.progress", progress.model_dump(mode="json", exclude={"recent"}))]
        registry.note(row, told, progress=progress.model_dump(mode="json"))
        expect(page.locator("[data-pairs]")).to_have_text(str(progress.pairs_done))
    expect(page.locator(f"[data-shard='{SHARD}']")).to_have_class("in_progress")
    expect(page.locator("[data-left]")).to_have_text(", 01:15 left")
    expect(page.locator("#scale")).to_contain_text("0 to 12.0 pairs/s")
    registry.note(row, [("shard.failed", {"shard": SHARD, "code": "io_error"})])
    expect(page.locator(f"[data-shard='{SHARD}']")).to_have_class("failed")
    fault = Fault(code="job", detail=HOSTILE)
    registry.advance(row, JobState.FAILED, fault)
    expect(page.get_by_role("alert")).to_have_text(f"job {HOSTILE}")
    expect(page.get_by_role("button", name="Try again what failed")).to_be_visible()
    page.get_by_role("button", name="Try again what failed").click()
    expect(page.get_by_role("heading", level=1)).not_to_have_text(row.id)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("[data-state]")).to_have_text(re.compile("cancell(ing|ed)"))  # soon done


def test_the_list_of_jobs_keeps_up(page: Page, registry: Registry, spec: ScoreSpec) -> None:
    for _ in range(50):
        registry.add(spec)
    page.goto("/")
    first = page.locator("tbody tr").first
    first.get_by_role("link").focus()
    focused = first.get_by_role("link").text_content()
    new = registry.add(spec)
    expect(first).to_contain_text(new.id)
    expect(page.locator("tbody tr")).to_have_count(50)
    assert page.evaluate("document.activeElement.textContent") == focused
    registry.advance(new, JobState.QUEUED)
    expect(first.locator("[data-state]")).to_have_text("queued")
    page.get_by_role("link", name="Older jobs").click()
    expect(page.get_by_role("link", name=focused)).to_have_count(0)
    page.get_by_label("State").select_option("queued")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_label("State").select_option("all")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody tr")).to_have_count(50)


def test_what_the_reference_thinks_of_the_data(
    page: Page, registry: Registry, spec: ScoreSpec
) -> None:
    row = completed(registry, spec)
    page.goto(f"/jobs/{row.id}")
    expect(page.get_by_role("heading", name="image_missing: 1")).to_be_visible()
    expect(page.locator("section", has_text="What failed").locator("tbody tr")).to_contain_text(
        f"{SHARD}007"
    )
    page.get_by_role("link", name="Look into the cache").click()
    expect(page.locator("svg.histogram rect")).to_have_count(60)
    lowest, highest = page.locator(".gallery").all()
    expect(lowest.locator("li").first).to_contain_text("picture 0")
    expect(highest.locator("li").first).to_contain_text(HOSTILE)
    broken = "images => images.filter(i => i.complete && !i.naturalWidth).length"
    assert page.locator(".gallery img").evaluate_all(broken) == 0
    assert page.locator(".gallery img").count() == 48
    page.get_by_label("Key").fill("007")
    page.get_by_role("button", name="Find").click()
    expect(page.locator(".gallery li")).to_have_count(1)
    expect(page.locator(".gallery li")).to_contain_text("image_missing")
    expect(page.locator(".absent")).to_have_text("no picture")


def test_a_form_says_what_is_wrong_where_it_is_wrong(
    page: Page, registry: Registry, spec: ScoreSpec, root: Path
) -> None:
    page.goto("/submit")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_label("Dataset")).to_be_focused()
    expect(page.locator("[id='/dataset-error']")).to_have_text("Field required")
    page.get_by_label("Dataset").fill(spec.dataset)
    page.get_by_label("Output").fill("/etc")
    page.get_by_label("Model").fill(f"local-dir:{root}")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("status")).to_contain_text("'/etc' is not under an allowed root")
    page.get_by_label("Output").fill(f"{root}/submitted")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("status")).to_contain_text("1 shards, 0 of them committed already")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("job_")
    (newest,) = registry.newest(1)
    assert newest.spec["output"] == f"{root}/submitted"
    expect(page.locator("pre").first).to_contain_text(f"rhocache submit {spec.dataset}")


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(
    page: Page, registry: Registry, spec: ScoreSpec, colours: Any
) -> None:
    row = completed(registry, spec)
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=colours)
    for place in ("/", f"/jobs/{row.id}", "/submit", "/caches"):
        page.goto(place)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place


def test_the_keyboard_is_enough(page: Page) -> None:
    page.goto("/")
    reached: set[str] = set()
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim()"))
    assert {"To the content", "rhocache", "Submit", "Caches", "Show"} <= reached


def test_the_api_page_loads_nothing_from_elsewhere(page: Page, url: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/docs")
    expect(page.get_by_text("Submit a job")).to_be_visible()
    assert all(each.startswith((url, "data:")) for each in asked)


def test_signing_in(browser: Browser, tmp_path: Path) -> None:
    app = create_app(settings_without_ray(tmp_path))
    _, key = app.state.keys.create("visitor", ["jobs:read"])
    with served(app) as url:
        context = browser.new_context(base_url=url)
        page = context.new_page()
        page.goto("/?status=queued")
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
        page.get_by_label("API key").fill("rhk_wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("unknown, expired or revoked")
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        expect(page).to_have_url(f"{url}/?status=queued")
        (cookie,) = context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        page.get_by_role("button", name="Sign out").click()
        page.goto("/")
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
        context.close()


def test_behind_a_proxy_that_hides_name_and_path(browser: Browser, tmp_path: Path) -> None:
    """One that shows the service under a path, and sends its upstream's name as Host."""
    settings = settings_without_ray(tmp_path, root_path="/rho", allow_host=["upstream"])
    answers = ["bad gateway"]  # to the first who asks for events

    def refuse(request: Request) -> Response | None:
        events = request.url.path.endswith("/events") and answers
        return Response(answers.pop(), 502) if events else None

    proxy = Proxy("", "/rho", headers={"Host": "upstream"}, refuse=refuse)
    app = create_app(settings)
    with served(app) as proxy.upstream, proxy.running() as url:
        page = browser.new_page()
        page.goto(f"{url}/")
        page.get_by_role("link", name="Submit", exact=True).click()
        page.wait_for_url(f"{url}/submit")  # with its script
        page.get_by_label("Dataset").fill(str(tmp_path))
        page.get_by_label("Output").fill(f"{tmp_path}/cache")
        page.get_by_label("Model").fill(f"local-dir:{tmp_path}")
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("job_")
        assert page.url.startswith(f"{url}/jobs/job_")
        (row,) = app.state.registry.newest(1)
        row = app.state.registry.advance(row, JobState.QUEUED)
        expect(page.locator("[data-state]")).to_have_text("queued")
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("[data-state]")).to_have_text("cancelled")  # by events, after the 502
        assert not answers
        page.get_by_role("link", name="API").click()
        expect(page.get_by_text("Submit a job")).to_be_visible()
        page.close()


def test_a_page_offers_what_its_key_permits_until_that_ends(
    browser: Browser, spec: ScoreSpec, tmp_path: Path
) -> None:
    app = create_app(settings_without_ray(tmp_path))
    row, key = app.state.keys.create("visitor", ["jobs:read"])
    job = app.state.registry.add(spec)
    with served(app) as url:
        context = browser.new_context(base_url=url)
        page = context.new_page()
        page.goto("/sign-in")
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("navigation").get_by_role("link")).to_have_text(["Jobs", "API"])
        page.get_by_role("link", name=job.id).click()
        expect(page.locator("[data-state]")).to_have_text("validating")
        app.state.registry.advance(job, JobState.QUEUED, shards=1)
        expect(page.locator("[data-state]")).to_have_text("queued")  # with no button to set
        expect(page.locator("[data-action]")).to_have_count(0)
        app.state.keys.revoke(row.id)
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
        context.close()


@pytest.mark.parametrize("to", ["https://evil.example", "//evil.example", "/\\evil.example"])
def test_signing_in_leads_nowhere_else(tmp_path: Path, to: str) -> None:
    app = create_app(settings_without_ray(tmp_path))
    _, key = app.state.keys.create("visitor", ["admin"])
    with served(app) as url:
        answer = httpx.post(f"{url}/sign-in", data={"key": key, "to": to})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
