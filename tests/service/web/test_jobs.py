"""The list of jobs: found by state and by words, and kept up to date."""

import pytest
from playwright.sync_api import Page, expect

from rhocache_schemas.cache.documents import Progress
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.registry.jobs import Registry

from .conftest import HOSTILE


def test_without_jobs_it_says_what_to_do(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    page.get_by_role("link", name="Submit a job").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Submit a job")


def test_the_list_of_jobs_keeps_up(page: Page, registry: Registry, spec: ScoreSpec) -> None:
    for _ in range(50):
        registry.add(spec)
    page.goto("/")
    first = page.locator("tbody tr").first
    first.get_by_role("link").focus()
    focused = page.evaluate("document.activeElement.getAttribute('href')")
    new = registry.add(spec)
    expect(first).to_have_attribute("data-job", new.id)
    expect(page.locator("tbody tr")).to_have_count(50)
    assert page.evaluate("document.activeElement.getAttribute('href')") == focused
    registry.advance(new, JobState.QUEUED)
    expect(first.locator("[data-state]")).to_have_text("queued")
    page.get_by_role("link", name="Older jobs").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name="queued 1").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name="all 51").click()
    expect(page.locator("tbody tr")).to_have_count(50)


def test_a_job_at_work_is_found_at_once_and_by_its_words(
    page: Page, registry: Registry, spec: ScoreSpec
) -> None:
    note = {"name": f"Steer {HOSTILE}", "owner": "gwen"}
    row = registry.add(spec.model_copy(update={"metadata": note}))
    row = registry.advance(row, JobState.QUEUED, shards=4)
    row = registry.advance(row, JobState.IN_PROGRESS)
    progress = Progress(
        phase="encoding", shards_total=4, pairs_done=1500, pairs_failed=3, updated_at=1.0
    )
    registry.note(row, progress=progress.model_dump(mode="json"))
    for _ in range(51):
        registry.add(spec)
    page.goto("/")
    first = page.locator("tbody tr").first
    expect(first.get_by_role("link")).to_have_text(f"Steer {HOSTILE}")
    expect(first).to_contain_text("dataset → model")
    expect(first).to_contain_text("gwen")
    expect(first.locator("td.warn")).to_have_text("3")
    page.get_by_label("Search jobs").fill("STEER gwen")  # as it is typed
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_label("Search jobs").fill("no such job")
    expect(page.get_by_role("heading", name="No job fits")).to_be_visible()
    assert page.url.endswith("?q=no+such+job")


@pytest.mark.parametrize("width", [360, 390])
def test_nothing_is_lost_on_a_phone(
    page: Page, registry: Registry, spec: ScoreSpec, width: int
) -> None:
    registry.add(spec)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/")
    cells = page.locator("tbody tr").first.locator("td")
    assert cells.evaluate_all("cells => cells.filter(cell => !cell.offsetHeight).length") == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
