"""A job's page: while it runs, when it has ended, with many tabs, and without a script."""

import re
from contextlib import suppress

import httpx
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect

from rhocache_schemas.cache.documents import Fault, Progress, RunTotals, Step
from rhocache_schemas.errors import JobStateConflict
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.registry.caches import cache_id
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import JobRow

from ..made import SHARD, completed
from .conftest import HOSTILE


def running(registry: Registry, spec: ScoreSpec) -> JobRow:
    row = registry.advance(registry.add(spec, content_sha256="x"), JobState.QUEUED, shards=1)
    return registry.advance(row, JobState.IN_PROGRESS)


def goes_on(registry: Registry, row: JobRow, second: int) -> None:
    progress = Progress(
        phase="encoding",
        steps=[
            Step(name="starting Ray", started_at=row.created_at, ended_at=row.created_at + 2),
            Step(name="encoding", started_at=row.created_at + 2),
        ],
        shards_total=1,
        shards_in_progress=[SHARD],
        pairs_done=1000 * second,
        pairs_per_second=10.0 + second,
        seconds_left=75.0,
        run=RunTotals(pairs_reused=100 * second),
        updated_at=float(second),
    )
    told = [("job.progress", progress.model_dump(mode="json", exclude={"recent"}))]
    registry.note(row, told, progress=progress.model_dump(mode="json"))


def tile(page: Page, name: str):
    return page.locator(".tile", has=page.get_by_text(name, exact=True)).locator("dd")


def test_a_job_goes_on_before_the_visitors_eyes(
    page: Page, registry: Registry, spec: ScoreSpec
) -> None:
    row = running(registry, spec)
    page.goto("/")
    line = page.locator(f"tr[data-job='{row.id}']")
    expect(line.locator("[data-state]")).to_have_text("in progress")
    line.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("dataset → model")
    expect(page).to_have_title("dataset → model · rhocache")
    for second in range(3):
        goes_on(registry, row, second)
        expect(tile(page, "Pairs")).to_have_text(f"{1000 * second:,}")
    expect(page.locator(f"[data-shard='{SHARD}']")).to_have_class("in_progress")
    expect(tile(page, "Time left")).to_have_text("1 min 15 s")
    expect(tile(page, "Reused")).to_contain_text("200")
    expect(page.locator(".phases li")).to_contain_text(
        ["validating", "queued", "in progress", "starting Ray", "encoding"]
    )
    curve = page.get_by_role("img", name="Pairs a second over the run")
    expect(curve).to_contain_text("10 pairs/s")  # a tick of its axis
    ended = {"shard": SHARD, "rows": 61, "failed": 1, "seconds": 12.0, "encoder": "node-2"}
    registry.note(row, [("shard.committed", ended)])
    expect(page.locator(f"[data-shard='{SHARD}']")).to_have_class("committed some-failed")
    page.locator(f"[data-shard='{SHARD}']").hover()
    expect(page.locator("#shard")).to_have_text(
        f"{SHARD}: committed, 61 rows, 1 failed, 12 s, by node-2"
    )
    registry.advance(row, JobState.FAILED, Fault(code="job", detail=HOSTILE))
    expect(page.get_by_role("alert")).to_have_text(f"job {HOSTILE}")
    page.get_by_role("button", name="Try again what failed").click()
    expect(page.get_by_text("Another try of")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("[data-state]")).to_have_text(re.compile("cancell(ing|ed)"))  # soon done


def test_what_failed_is_shown_and_the_tooltip_knows_the_shard(
    page: Page, registry: Registry, spec: ScoreSpec
) -> None:
    row = completed(registry, spec)
    page.goto(f"/jobs/{row.id}")
    expect(page.get_by_role("heading", name="image_missing: 1")).to_be_visible()
    failed = page.locator("section", has_text="What failed").locator(".card")
    expect(failed).to_contain_text("picture 7")
    expect(failed).to_contain_text(f"{SHARD} 007")
    page.locator(f"[data-shard='{SHARD}']").hover()
    expect(page.locator("#shard")).to_have_text(f"{SHARD}: committed, 61 rows, 1 failed")
    page.get_by_text("The last lines of its driver").click()
    expect(page.locator("#log")).to_contain_text("Its driver has printed nothing")
    page.get_by_role("link", name="Look into the cache").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("cache")


def test_every_cache_of_several_references_is_linked(
    page: Page, registry: Registry, spec: ScoreSpec
) -> None:
    places = [f"{spec.output}-{name}" for name in ("second", "gone")]
    also = [
        {"reference": {"model": f"hf-hub:{name}/model"}, "output": place}
        for name, place in zip(("a", "b"), places, strict=True)
    ]
    row = completed(registry, ScoreSpec.model_validate(spec.model_dump() | {"also": also}))
    registry.caches.add(places[0], "f" * 64, row.id, at=2)
    page.goto(f"/jobs/{row.id}")
    others = page.locator("section", has_text="Caches of its other references")
    expect(others.get_by_role("listitem")).to_have_text([places[0], f"{places[1]} was deleted"])
    link = others.get_by_role("link", name=places[0])
    expect(link).to_have_attribute("href", f"/caches/{cache_id(places[0])}")
    asked = f"hf-hub:a/model={places[0]}, hf-hub:b/model={places[1]}"
    expect(page.locator("section", has_text="What was asked for")).to_contain_text(asked)
    registry.caches.give_up(places[0])


def test_it_can_be_copied_as_it_was_asked(
    browser: Browser, url: str, registry: Registry, spec: ScoreSpec
) -> None:
    row = registry.add(spec)
    context = browser.new_context(base_url=url, permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"/jobs/{row.id}")
    page.get_by_role("button", name="Copy: As a command").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(f"rhocache submit {spec.dataset} --model")
    context.close()


def test_a_hidden_tab_holds_no_stream(
    browser: Browser, url: str, registry: Registry, spec: ScoreSpec, app: FastAPI
) -> None:
    """A browser has six connections to a host: of ten tabs each must still load and be live."""
    row = running(registry, spec)
    context = browser.new_context(base_url=url)
    # All tabs of a headless browser are visible: this tells each whether it is.
    context.add_init_script(
        "Object.defineProperty(document, 'hidden', { get: () => window.seen === false })"
    )
    hide = "window.seen = false; document.dispatchEvent(new Event('visibilitychange'))"
    show = "window.seen = true; document.dispatchEvent(new Event('visibilitychange'))"
    tabs: list[Page] = []
    for _ in range(10):
        tab = context.new_page()
        with tab.expect_response(re.compile("/events$")):
            tab.goto(f"/jobs/{row.id}")
        tab.evaluate(hide)
        tabs.append(tab)
    goes_on(registry, row, 5)
    with tabs[0].expect_request(re.compile("/events$")) as asked:
        tabs[0].evaluate(show)
    expect(tile(tabs[0], "Pairs")).to_have_text("5,000")
    assert asked.value.header_value("last-event-id") == "3"  # it goes on where it was
    expect(tile(tabs[1], "Pairs")).to_have_text("0")
    context.close()


def test_without_a_script_jobs_are_read_cancelled_and_tried_again(
    browser: Browser, url: str, registry: Registry, spec: ScoreSpec
) -> None:
    row = running(registry, spec)
    for second in range(3):
        goes_on(registry, row, second)
    page = browser.new_context(base_url=url, java_script_enabled=False).new_page()
    page.goto(f"/jobs/{row.id}")
    expect(tile(page, "Pairs")).to_have_text("2,000")
    expect(page.get_by_role("img", name="Pairs a second over the run")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("[data-state]")).to_have_text(re.compile("cancell(ing|ed)"))
    found = registry.get(row.id)
    assert found is not None
    with suppress(JobStateConflict):  # where the service has been faster
        registry.advance(found, JobState.CANCELLED)
    page.reload()
    page.get_by_role("button", name="Try again what failed").click()
    expect(page.get_by_text("Another try of")).to_be_visible()
    page.context.close()


def test_what_its_state_does_not_permit_is_refused_on_a_page(
    url: str, registry: Registry, spec: ScoreSpec
) -> None:
    row = completed(registry, spec)
    answer = httpx.post(f"{url}/jobs/{row.id}/cancel")
    assert answer.status_code == 409
    assert "is completed and can&#39;t become cancelling" in answer.text
