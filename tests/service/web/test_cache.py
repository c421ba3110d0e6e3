"""A cache's page: its similarities and pairs, what to do with it, and beside another cache."""

import json
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from playwright.sync_api import Page, expect

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_service.caches import search, similarity
from rhocache_service.caches.comparison import compare
from rhocache_service.registry.caches import cache_id
from rhocache_service.registry.jobs import Registry
from rhocache_service.web.snippets import snippets
from rhocache_trainer import load_config

from ..made import completed, make_cache
from .conftest import HOSTILE


@pytest.fixture
def place(registry: Registry, spec: ScoreSpec) -> str:
    completed(registry, spec)
    return f"/caches/{cache_id(spec.output)}"


def test_what_the_reference_thinks_of_the_data(page: Page, place: str) -> None:
    page.goto(place)
    bars = page.locator(".histogram a")
    counts = bars.evaluate_all("bars => bars.map(bar => parseInt(bar.getAttribute('aria-label')))")
    assert sum(counts) == 60  # 007 has no similarity
    cards = page.locator(".card")
    expect(cards.first).to_contain_text("picture 0")
    page.get_by_role("link", name="highest").click()
    expect(cards.first).to_contain_text(HOSTILE)
    expect(cards).to_have_count(24)
    broken = "images => images.filter(i => i.complete && !i.naturalWidth).length"
    assert page.locator(".card img").evaluate_all(broken) == 0
    page.get_by_role("link", name="More pairs").click()
    expect(cards.first).to_contain_text("picture 36")
    page.get_by_role("link", name="failed 1").click()
    expect(cards).to_have_count(1)
    expect(cards).to_contain_text("image missing")
    expect(page.locator(".absent")).to_have_text("no picture")
    page.get_by_role("link", name="random").click()
    expect(cards).to_have_count(24)
    before = cards.all_text_contents()
    page.get_by_role("link", name="Another sample").click()
    expect(cards.first).not_to_have_text(before[0])


def test_a_cache_is_kept_or_deleted(page: Page, registry: Registry, root: Path) -> None:
    spec = make_cache(root / "deleted", {"one": "1"})
    row = completed(registry, spec)
    cache = registry.caches.find(cache_id(spec.output))
    registry.caches.keep_until(cache, 4 * 10**9)
    page.goto(f"/caches/{cache.id}")
    expect(page.locator(".sub").first).to_contain_text("deleted after 2096-10-02")
    page.get_by_role("button", name="Keep for ever").click()
    expect(page.get_by_role("button", name="Keep for ever")).to_have_count(0)
    expect(page.locator(".sub").first).not_to_contain_text("deleted after")
    button = page.get_by_role("button", name="Delete cache")
    expect(button).to_be_hidden()
    page.get_by_text("Delete this cache").click()
    button.click()
    expect(page).to_have_url(re.compile("/caches$"))
    expect(page.get_by_text(spec.output)).to_have_count(0)
    assert Path(spec.dataset).exists()
    page.goto(f"/jobs/{row.id}")
    expect(page.get_by_text("Its cache was deleted")).to_be_visible()
    expect(page.get_by_role("link", name="Look into the cache")).to_have_count(0)


def test_caches_are_listed_beside_the_jobs_that_made_them(
    page: Page, registry: Registry, spec: ScoreSpec
) -> None:
    named = spec.model_copy(update={"metadata": {"name": "the whole shop"}})
    row = completed(registry, named)
    page.goto("/caches")
    made = page.locator("tbody tr").filter(has_text=spec.output)
    expect(made).to_have_count(1)
    expect(made).to_contain_text("the whole shop")
    registry.delete(row)
    page.reload()
    expect(made).to_contain_text(f"{row.id[:12]}…")  # it is still a cache
    made.get_by_role("link", name="cache", exact=True).click()
    expect(page.get_by_role("heading", name="Pairs", exact=True)).to_be_visible()


def test_a_bar_opens_its_pairs_and_the_median_is_where_it_is(page: Page, place: str) -> None:
    page.goto(place)
    median = page.locator("line.median").get_attribute("x1")
    assert median is not None
    # 007, of the lower half, has none; a bin is 0.05 % of the plot.
    assert float(median.removesuffix("%")) == pytest.approx(50.83, abs=0.05)
    page.locator(".histogram a").last.click()
    expect(page.locator(".card")).to_have_count(1)
    expect(page.get_by_role("heading", name="Similarity 0.491 to 0.500: 1 pair")).to_be_visible()
    page.get_by_label("Similarity from").fill("0.4")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".card")).to_have_count(7)


def test_pairs_are_found_by_key_and_by_words_of_their_captions(page: Page, place: str) -> None:
    page.goto(place)
    page.get_by_label("Key or caption").fill("007")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".card")).to_have_count(1)
    expect(page.locator(".card")).to_contain_text("picture 7")
    page.get_by_label("Key or caption").fill("5 PICTURE")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".card")).to_have_count(15)
    page.get_by_label("Key or caption").fill("ostrich")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_text("No pair has this key or caption")).to_be_visible()


def test_a_search_of_captions_goes_on_where_it_stopped(
    page: Page, registry: Registry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten captions at once, of 30 in six shards: two shards, two and the last two."""
    captions = {f"{number:03}": f"a picture {number % 10}" for number in range(30)}
    spec = make_cache(root / "six", captions, shards=6)
    completed(registry, spec)
    monkeypatch.setattr(search, "LOOKED_THROUGH", 10)
    page.goto(f"/caches/{cache_id(spec.output)}?q=picture 7")
    keys: list[str] = []
    for shard in (3, 5, None):
        keys += page.locator(".card .key").all_text_contents()
        further = page.locator("a[rel=next]")
        if shard is None:
            expect(further).to_have_count(0)
        else:
            expect(further).to_have_text(f"Look on, from shard {shard}")
            further.click()
    assert keys == ["007", "017", "027"]
    page.goto(f"/caches/{cache_id(spec.output)}?q=a picture 7")
    expect(page.locator(".card")).to_have_count(3)  # whole captions are known of all
    page.get_by_role("link", name="Look on").click()
    expect(page.get_by_text("None of the 10 captions")).to_be_visible()
    page.goto(f"/caches/{cache_id(spec.output)}?q=ostrich")
    expect(page.get_by_text("None of the 10 captions that were looked at")).to_be_visible()


def test_a_card_is_shown_large_with_its_whole_caption(page: Page, place: str) -> None:
    page.goto(f"{place}?q=evil")
    page.locator(".card a").click()
    expect(page.get_by_role("dialog")).to_contain_text(HOSTILE)
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_two_caches_of_the_same_data_are_compared(
    page: Page, registry: Registry, spec: ScoreSpec, place: str, root: Path
) -> None:
    other = root / "other"
    captions = {f"{number:03}": f"picture {number}" for number in range(60)} | {"evil": HOSTILE}
    # The same pictures in another order of similarity: 007, first, has none again.
    twin = make_cache(other, captions, missing="001")
    completed(registry, twin)
    page.goto(f"{place}/compare")
    expect(page.get_by_text("No other cache of this dataset")).to_be_visible()
    page.goto(f"{place}/compare?other={cache_id(twin.output)}")
    expect(page.locator(".scatter circle")).to_have_count(59)
    expect(page.locator(".tile").first).to_contain_text("59")
    expect(page.locator(".tile").nth(1)).to_contain_text("1.000")
    found = compare(CacheReader.open(spec.output), CacheReader.open(twin.output))
    assert (found.common, found.shards, found.pairs) == (1, 1, 59)
    assert found.mean_difference == 0.0


def test_the_snippets_run(spec: ScoreSpec, tmp_path: Path) -> None:
    texts = snippets(spec.output, CacheReader.open(spec.output).manifest)
    lines = texts["Train with this"].splitlines()
    (tmp_path / "steered.yaml").write_text("\n".join(lines[1:-2]))
    config = load_config(str(tmp_path / "steered.yaml"))
    assert (lines[-1], config.cache) == ("rhocache train steered.yaml", spec.output)
    run = [sys.executable, "-c", texts["Load in Python"]]
    told = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert told == "00000.tar 61\n"
    shown: list[object] = []
    code = texts["Query in DuckDB"].replace(".show()", ".fetchall()").replace("duckdb.sql", "keep")
    exec(code, {"keep": lambda query: shown.append(query) or duckdb.sql(query)})
    assert duckdb.sql(str(shown[0])).fetchall()[0] == ("000", -0.5)


@pytest.mark.parametrize(("most", "pairs"), [("_SHARDS", 2), ("_PAIRS", 10)])
def test_of_a_large_cache_some_shards_are_ranked(
    page: Page,
    registry: Registry,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: str,
    pairs: int,
) -> None:
    """Of 30 pairs of ascending similarity in six shards: those of the first and the fourth.

    So it is without a summary; with one the ends are those of all, and only the rest is of some.
    """
    captions = {f"{number:03}": f"a picture {number}" for number in range(30)}
    spec = make_cache(root / most, captions, shards=6)
    completed(registry, spec)
    monkeypatch.setattr(similarity, most, pairs)
    here = f"/caches/{cache_id(spec.output)}"
    ranked = page.request.get(f"/v1{here}/pairs", params={"limit": 100}).json()
    assert [pair["key"] for pair in ranked["data"]] == list(captions)
    assert ranked["shards"] == 6
    page.goto(f"{here}?view=random")
    expect(page.locator(".card")).to_have_count(10)
    manifest = Path(spec.output, "manifest.json")
    told = json.loads(manifest.read_text()) | {"summary_sha256": None}
    manifest.write_text(json.dumps(told))
    page.goto(here)
    text = "Of 10 pairs in 2 shards, chosen evenly among 6."
    expect(page.get_by_text(text)).to_be_visible()
    ranked = page.request.get(f"/v1{here}/pairs").json()
    keys = ["000", "001", "002", "003", "004", "015", "016", "017", "018", "019"]
    assert [pair["key"] for pair in ranked["data"]] == keys
    assert ranked["shards"] == 2
    twin = make_cache(root / f"{most} twin", captions, shards=6)
    completed(registry, twin)
    page.goto(f"{here}/compare?other={cache_id(twin.output)}")
    expect(page.locator(".tile").first).to_contain_text("in 2 shards, chosen evenly among 6")
    page.goto(f"{here}?q=029")
    expect(page.locator(".card .key")).to_have_text("029")  # keys are looked for in all
