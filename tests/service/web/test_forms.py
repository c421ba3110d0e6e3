"""The form in a real browser: what is put into it is what is submitted."""

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, expect
from specs import submissions

from rhocache_schemas.api import SUBMISSIONS
from rhocache_schemas.job.fields import fields_of
from rhocache_schemas.job.kinds import KINDS
from rhocache_service.app import create_app
from rhocache_service.registry.tables import JobRow

from ..conftest import served, settings_without_ray
from ..made import make_cache

Opened = Callable[[str], AbstractContextManager[Page]]
LINE = st.characters(exclude_categories=["Cs", "Cc"])  # what can be typed into one line


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forms")


@pytest.fixture(scope="module")
def app(root: Path) -> FastAPI:
    limits = {"submits_per_minute": 10**6, "max_waiting_jobs": 10**6}
    return create_app(settings_without_ray(root, **limits))


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    with served(app) as url:
        yield url


@pytest.fixture(scope="module")
def opened(browser: Browser, url: str) -> Opened:
    """Each path in a page of its own: one that is left may be on its way to another."""

    @contextmanager
    def open_path(path: str) -> Generator[Page]:
        with browser.new_page(base_url=url) as page:
            page.set_default_timeout(120_000)
            page.goto(path)
            yield page

    return open_path


def send(form: Page, app: FastAPI) -> JobRow:
    """Submit what is in the form, and wait for the page of the job that was made of it."""
    (before,) = app.state.registry.newest(1)
    form.get_by_role("button", name="Submit").click()
    expect(
        form.locator("#job").or_(form.locator("#plan .fault, .error:not(:empty)"))
    ).to_be_visible()
    (row,) = app.state.registry.newest(1)
    assert row.id != before.id, form.locator("form").text_content()
    return row


def asked(row: JobRow) -> tuple[Any, ...]:
    left = None if row.deadline is None else round(row.deadline - row.created_at)
    return row.spec, row.priority, left


@given(st.data())
@settings(deadline=None, max_examples=15)
def test_a_form_that_is_left_as_it_is_asks_for_the_same(
    opened: Opened, app: FastAPI, url: str, root: Path, data: st.DataObject
) -> None:
    """From a valid spec to the form on its job's page, and back."""
    made = data.draw(submissions(data.draw(st.sampled_from(sorted(KINDS))), str(root)))
    answer = httpx.post(f"{url}/v1/jobs", json=made.model_dump(mode="json"))
    assume(answer.is_success)  # as with a brace pattern that has no end
    (first,) = app.state.registry.newest(1)
    with opened(f"/jobs/{first.id}") as page:  # which is loaded again as its job ends
        again = page.get_by_role("link", name="With changes").get_attribute("href")
    assert again is not None
    with opened(again) as form:
        assert asked(send(form, app)) == asked(first)


@given(st.data())
@settings(deadline=None, max_examples=15)
def test_what_is_typed_is_what_is_asked_for(
    opened: Opened, app: FastAPI, url: str, root: Path, data: st.DataObject
) -> None:
    """From a valid spec, typed into an empty form, to the same spec."""
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    made = data.draw(submissions(kind, str(root), LINE))
    fields = fields_of(SUBMISSIONS[kind])
    values = [field.get(made) for field in fields]
    assume("" not in values)  # nothing typed is nothing asked for
    answer = httpx.post(f"{url}/v1/jobs", json=made.model_dump(mode="json"))
    assume(answer.is_success)
    (first,) = app.state.registry.newest(1)

    with opened(f"/submit?kind={kind}") as form:
        form.get_by_text("More settings").click()
        for field, value in zip(fields, values, strict=True):
            control = form.locator(f"[id='{field.pointer}']")
            if field.form == "flag":
                control.set_checked(value)
            elif field.form == "choice":
                control.select_option(value)
            else:
                control.fill("\n".join(field.write(value)))
        assert asked(send(form, app)) == asked(first)


@pytest.fixture
def form(opened: Opened) -> Iterator[Page]:
    with opened("/submit") as page:
        yield page


def test_what_is_filled_in_is_planned_beside_the_form(form: Page, root: Path) -> None:
    make_cache(root / "made", {"a": "a picture", "b": "another"})
    form.get_by_label("Dataset").fill(f"{root}/made/dataset")
    form.get_by_label("Output").fill("/etc")
    form.get_by_label("Model").fill(f"local-dir:{root}")
    expect(form.locator("[id='/output-error']")).to_contain_text("is not under an allowed root")
    form.get_by_label("Output").fill(f"{root}/new")
    expect(form.locator("[id='/output-error']")).to_be_empty()
    plan = form.locator("#plan .tile")
    expect(plan).to_contain_text(["Shards1", "Pairs2", "Time–", "Cache–"])
    form.get_by_label("Dataset").fill(f"{root}/nowhere")
    expect(form.locator("[id='/dataset-error']")).to_contain_text("nowhere")  # a 404


def test_a_fault_within_a_field_is_told_at_the_field(form: Page, root: Path) -> None:
    form.get_by_role("button", name="Submit").click()
    expect(form.locator("[id='/dataset-error']")).to_have_text("Field required")
    expect(form.get_by_label("Dataset")).to_be_focused()
    form.get_by_label("Dataset").fill(f"{root}/data")
    form.get_by_label("Output").fill(f"{root}/cache")
    form.get_by_label("Model").fill(f"local-dir:{root}")
    form.get_by_text("More settings").click()
    form.get_by_label("Batch size").fill("many")
    form.get_by_label("Metadata").fill("owner=vision\nno note")
    form.get_by_role("button", name="Submit").click()
    expect(form.get_by_label("Batch size")).to_be_focused()
    expect(form.locator("[id='/batch_size-error']")).to_contain_text("'auto'")
    expect(form.locator("[id='/metadata-error']")).to_contain_text("valid dictionary")
    assert form.get_by_label("Metadata").input_value() == "owner=vision\nno note"


def test_models_are_offered_with_the_weights_that_they_load(form: Page) -> None:
    assert form.locator("#models option[value='ViT-B-32']").count() == 1
    form.get_by_label("Model").fill("ViT-B-32")
    weights = form.locator("#weights option:not([disabled])")
    offered = weights.evaluate_all("options => options.map(option => option.dataset.model)")
    assert set(offered) == {"ViT-B-32"}


def test_a_job_is_submitted_without_a_script(
    browser: Browser, app: FastAPI, url: str, root: Path
) -> None:
    page = browser.new_context(base_url=url, java_script_enabled=False).new_page()
    page.goto("/submit")
    page.get_by_label("Dataset").fill(str(root))
    page.get_by_label("Output").fill(f"{root}/scriptless")
    page.get_by_label("Model").fill(f"local-dir:{root}")
    page.get_by_role("button", name="Plan it").click()
    expect(page.locator("[id='/dataset-error']")).to_contain_text(str(root))  # has no shards
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#job")).to_be_visible()
    (row,) = app.state.registry.newest(1)
    assert row.spec["output"] == f"{root}/scriptless"
    page.context.close()


def test_there_is_no_form_for_a_kind_that_is_not_installed(url: str) -> None:
    answer = httpx.get(f"{url}/submit?kind=os.system")
    assert answer.status_code == 404
    assert "no kind of jobs &#39;os.system&#39;" in answer.text
