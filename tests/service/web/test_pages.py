"""The pages in a real browser, with data that is hostile."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Request, Response
from playwright.sync_api import Browser, Page, expect

from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.app import create_app
from rhocache_service.registry.jobs import Registry

from ..conftest import served, settings_without_ray
from ..made import completed
from ..reverse_proxy import Proxy


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(
    page: Page, registry: Registry, spec: ScoreSpec, colours: Any
) -> None:
    row = completed(registry, spec)
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=colours)
    for place in ("/", f"/jobs/{row.id}", "/submit", "/caches", "/runs"):
        page.goto(place)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place


def test_the_keyboard_is_enough(page: Page) -> None:
    page.goto("/")
    reached: set[str] = set()
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim()"))
    assert {"To the content", "rhocache", "Submit", "Caches", "Runs", "API"} <= reached


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
        expect(page.locator("#job")).to_be_visible()
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
        expect(page.get_by_role("navigation", name="Pages").get_by_role("link")).to_have_text(
            ["Jobs", "API"]
        )
        page.goto(f"/jobs/{job.id}")
        expect(page.locator("[data-state]")).to_have_text("validating")
        app.state.registry.advance(job, JobState.QUEUED, shards=1)
        expect(page.locator("[data-state]")).to_have_text("queued")  # with no button to set
        expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
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


def test_a_problem_is_a_page_for_who_asks_for_one(browser: Browser, url: str) -> None:
    page = browser.new_page(base_url=url)
    answer = page.goto("/nowhere")
    assert answer is not None
    assert answer.status == 404
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no such thing")
    expect(page.get_by_role("link", name="Caches")).to_be_visible()
    page.goto("/v1/jobs/job_nowhere")
    expect(page.get_by_role("alert")).to_have_text("no job 'job_nowhere'")
    page.close()
    told = httpx.get(f"{url}/nowhere")
    assert (told.headers["content-type"], told.headers["vary"]) == (
        "application/problem+json",
        "Accept",
    )
