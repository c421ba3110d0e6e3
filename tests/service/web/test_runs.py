"""Training runs, from the folders that a trainer leaves."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_service.registry.jobs import Registry
from rhocache_trainer.run_folder import HeavyPair, LogRecord, RunFolder

from ..made import completed, picture
from .conftest import HOSTILE


@pytest.fixture
def run(root: Path, spec: ScoreSpec) -> RunFolder:
    """As the trainer's own code writes it."""
    folder = RunFolder(root / "runs" / "steered")
    folder.write_config({"cache": spec.output, "objective": {"name": "drrho"}})
    records = [
        LogRecord(step=step, objective=2.0 - step / 100, tau=0.05, effective_sample_size=40.5)
        for step in range(0, 100, 10)
    ]
    folder.log.write_text("".join(record.line() for record in records) + '{"step": 10')
    heavy = HeavyPair(shard="0.tar", key="k", caption=HOSTILE, weight=12.5, picture="k.png")
    folder.write_heaviest([(heavy, picture(3))])
    folder.evaluation.write_text(json.dumps({"images": 9, "image_to_text": {"1": 0.4321}}))
    return folder


def test_a_job_leads_on_to_what_became_of_it(
    page: Page, registry: Registry, spec: ScoreSpec, run: RunFolder
) -> None:
    row = completed(registry, spec)
    page.goto(f"/jobs/{row.id}")
    page.get_by_role("link", name="Training runs").click()
    page.get_by_role("link", name="steered").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("steered")
    curves = page.get_by_role("img", name="over steps")
    expect(curves).to_have_count(3)
    expect(page.get_by_text("12.50×")).to_be_visible()
    expect(page.locator(".card")).to_contain_text(HOSTILE)
    expect(page.get_by_text("0.4321")).to_be_visible()
    assert page.locator(".card img").evaluate("image => image.decode().then(() => true)")
    with run.log.open("a") as log:  # it trains on
        log.write(', "objective": 1.0}\n' + LogRecord(step=100, objective=0.125).line())
    expect(page.locator(".tile").nth(1)).to_contain_text("0.125")
    page.get_by_role("link", name="The cache that steers it").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("cache")


def test_a_run_with_several_references_tells_them(
    page: Page, registry: Registry, spec: ScoreSpec, run: RunFolder
) -> None:
    completed(registry, spec)
    run.write_config({"cache": [spec.output, "/elsewhere"], "objective": {"name": "drrho"}})
    page.goto(f"/runs?cache={spec.output}")
    expect(page.locator("td[data-name=Cache]")).to_have_text(f"{spec.output}, /elsewhere")
    page.get_by_role("link", name="steered").click()
    page.get_by_role("link", name="Steered by cache").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("cache")


def test_runs_of_another_cache_are_not_listed(url: str, run: RunFolder) -> None:
    assert "steered" in httpx.get(f"{url}/runs").text
    other = httpx.get(f"{url}/runs", params={"cache": "/elsewhere"}).text
    assert "No runs with this cache yet" in other


@pytest.mark.parametrize(
    ("folder", "status"), [("/etc", 403), ("{root}/nothing", 422), ("{root}/../..", 403)]
)
def test_no_place_outside_the_roots_is_read(url: str, root: Path, folder: str, status: int) -> None:
    asked = {"folder": folder.format(root=root)}
    assert httpx.get(f"{url}/run", params=asked).status_code == status
    assert httpx.get(f"{url}/run/pictures/passwd", params=asked).status_code in (403, 404)


def test_a_link_does_not_lead_out_of_the_roots(url: str, run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture(1))
    (run.pictures / "out.png").symlink_to(tmp_path / "secret.png")
    asked = {"folder": str(run.path)}
    assert httpx.get(f"{url}/run/pictures/out.png", params=asked).status_code == 403


@pytest.mark.parametrize("broken", ["[1, 2", "- a list", "a: [", "\x00", '{"step": "x"}'])
def test_what_does_not_fit_is_passed_over(url: str, run: RunFolder, broken: Any) -> None:
    for file in (run.config, run.evaluation, run.heaviest):
        file.write_text(broken)
    with run.log.open("w") as log:
        log.write(f"{broken}\n" + json.dumps({"step": 7, "tau": 0.5}) + "\n")
    page = httpx.get(f"{url}/run", params={"folder": str(run.path)})
    assert page.status_code == 200
    assert "<dd>7" in page.text
