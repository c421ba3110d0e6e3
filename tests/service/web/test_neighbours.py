"""The page of a job for neighbours: what is near each other, with pictures."""

from pathlib import Path

from playwright.sync_api import Page, expect

from rhocache_schemas.job.kinds.neighbours import NeighboursSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import JobRow
from rhocache_workers.over_cache.driver import make_table
from rhocache_workers.over_cache.neighbours.work import Neighbours

from ..made import SHARD, completed, make_cache
from .conftest import HOSTILE


def made(registry: Registry, cache: str, output: Path) -> JobRow:
    """A job that has made a table of a cache's near-duplicates."""
    spec = NeighboursSpec(cache=cache, output=str(output), threshold=0.9)
    row = registry.advance(registry.add(spec), JobState.QUEUED, shards=1)
    row = registry.advance(row, JobState.IN_PROGRESS)
    make_table(spec, Neighbours, here=True)
    return registry.advance(registry.advance(row, JobState.FINALIZING), JobState.COMPLETED)


def test_near_duplicates_are_shown_beside_each_other(
    page: Page, registry: Registry, root: Path
) -> None:
    spec = make_cache(root / "near", {"000": HOSTILE, "001": "two", "002": "three"})
    row = made(registry, spec.output, root / "of no cache that is listed")
    page.goto(f"/jobs/{row.id}")
    expect(page.get_by_role("heading", name="Group 0: 3 pairs")).to_be_visible()
    near = page.locator("section", has=page.get_by_role("heading", name="Near-duplicates"))
    expect(near.locator("li")).to_have_text([f"{SHARD} {key}" for key in ("000", "001", "002")])

    completed(registry, spec)
    row = made(registry, spec.output, root / "table")
    page.goto(f"/jobs/{row.id}")
    expect(near.locator(".caption")).to_have_text([HOSTILE, "two", "three"])
    picture = near.locator("img").nth(1)
    expect(picture).to_have_js_property("naturalWidth", 48)
    nearest = page.locator("section", has=page.get_by_role("heading", name="Nearest pairs"))
    expect(nearest.get_by_role("heading", name="1.0000").first).to_be_visible()
    expect(nearest.locator("ul").first.locator(".card")).to_have_count(2)
    picture.click()
    expect(page.locator("#large").get_by_text("two")).to_be_visible()
