"""Every page as axe-core sees it, light and dark: no fault that it knows of."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from axe_playwright_python import sync_playwright as axe
from playwright.sync_api import Page

from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_service.registry.caches import cache_id
from rhocache_service.registry.jobs import Registry

from ..made import completed, make_cache


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_no_fault(
    page: Page, registry: Registry, spec: ScoreSpec, root: Path, colours: Any
) -> None:
    page.emulate_media(color_scheme=colours)
    faults = faults_of(page, "/", "/caches", "/runs")  # empty at first
    row, run = completed(registry, spec), root / "run"
    twin = make_cache(root / f"twin-{colours}", {"000": "one", "001": "two"})
    completed(registry, twin)
    run.mkdir(exist_ok=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"cache": spec.output}))
    steps = [json.dumps({"step": step, "tau": 0.07 - step / 1000}) for step in range(3)]
    (run / "log.jsonl").write_text("\n".join(steps) + "\n")
    cache = f"/caches/{cache_id(spec.output)}"
    faults += faults_of(
        page, "/", f"/jobs/{row.id}", f"/jobs/{row.id}/log", f"/submit?like={row.id}",
        "/caches", cache, f"{cache}?view=failed", f"{cache}/compare?other={cache_id(twin.output)}",
        "/runs", f"/run?folder={run}", "/sign-in", "/nowhere", "/problems/not-found",
    )  # fmt: skip
    assert faults == []


def faults_of(page: Page, *places: str) -> list[str]:
    found: list[str] = []
    for place in places:
        page.goto(place)
        result = axe.Axe().run(page)
        found += [
            f"{place}: {fault['id']}: {node['html'][:200]}"
            for fault in result.response["violations"]
            for node in fault["nodes"]
        ]
    return found
