"""The form for a job: what is sent is either planned or submitted, and faults are told in it.

It works without a script. With one, the same form is sent to be planned as it is filled in.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import ValidationError
from starlette.datastructures import FormData

from rhocache_schemas.api import SUBMISSIONS, Submission, Validation
from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.job.fields import nest, read_notes
from rhocache_schemas.job.kinds import DEFAULT, KINDS
from rhocache_schemas.models import known_tags
from rhocache_service.api.auth import WritesJobs
from rhocache_service.api.dependencies import InRegistry, WithSubmissions
from rhocache_service.http.addresses import root_path
from rhocache_service.http.problems import ProblemError, as_problem
from rhocache_service.registry.callers import Caller
from rhocache_service.registry.jobs import Registry
from rhocache_service.web import again
from rhocache_service.web.again import Control
from rhocache_service.web.render import page, page_router

router = page_router()

_LINES = ("notes", "lines")  # forms of a text each line


async def _form(request: Request) -> FormData:
    return await request.form()


@router.get("/submit")
def form(
    who: WritesJobs, request: Request, registry: InRegistry, kind: str = DEFAULT, like: str = ""
):
    """An empty form, or one that asks for what the job ``like`` asked for."""
    kind, made = _asked(who, registry, kind, like)
    return _shown(request, kind, like, list(again.form(kind, made)))


@router.post("/submit")
def submit(
    who: WritesJobs,
    request: Request,
    registry: InRegistry,
    submissions: WithSubmissions,
    sent: Annotated[FormData, Depends(_form)],
    kind: str = DEFAULT,
    like: str = "",
):
    kind, made = _asked(who, registry, kind, like)
    texts = {name: value for name, value in sent.items() if isinstance(value, str)}
    controls = list(again.form(kind, made))
    filled = [replace(each, text=_text(each, texts)) for each in controls]
    try:
        submission = _read(kind, controls, texts)
        if "plan" in sent:
            return _shown(request, kind, like, filled, plan=submissions.preview(submission))
        taken = submissions.add(submission, submissions.admit(submission), who).id
    except (RhocacheError, RequestValidationError) as error:
        return _shown(request, kind, like, filled, problem=as_problem(error))
    if who.may("jobs:read"):
        return RedirectResponse(f"{root_path(request)}/jobs/{taken}", status_code=303)
    return _shown(request, kind, like, filled, taken=taken)


def _asked(who: Caller, registry: Registry, kind: str, like: str) -> tuple[str, Submission | None]:
    if like and not who.may("jobs:read"):
        raise ProblemError("forbidden", "this API key lacks the scope jobs:read")
    row = registry.get(like) if like else None
    if like and row is None:
        raise ProblemError("not-found", f"no job {like!r}")
    kind = kind if row is None else row.job_spec().kind
    if kind not in KINDS:
        raise ProblemError("not-found", f"no kind of jobs {kind!r}")
    return kind, None if row is None else again.submission_of(row)


def _text(control: Control, texts: Mapping[str, str]) -> str:
    """What a control holds when its form is sent."""
    name = control.field.pointer
    if control.field.form == "flag":
        return str(name in texts)
    return texts.get(name, "").replace("\r\n", "\n")


def _read(kind: str, controls: list[Control], texts: Mapping[str, str]) -> Submission:
    """Read what a form asks for. Raises RequestValidationError."""
    values: dict[tuple[str, ...], Any] = {}
    for control in controls:
        text = _text(control, texts)
        if control.value is not None and text == _as_browsers_hold(control):
            values[control.field.path] = json.loads(control.value)
        elif text or control.field.form in _LINES:
            values[control.field.path] = _value(control, text)
    try:
        return SUBMISSIONS[kind].model_validate(nest(values))
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults) from None


def _as_browsers_hold(control: Control) -> str:
    """A control's first text: HTML has no NUL, and a line of input no line ends."""
    text = control.text.replace("\0", "\ufffd")
    return text if control.field.form in _LINES else text.replace("\r", "").replace("\n", "")


def _value(control: Control, text: str) -> Any:
    """A text as the spec's model reads it: it understands numbers and flags, but no lines."""
    if control.field.form not in _LINES:
        return text
    lines = [line for line in text.split("\n") if line]
    if control.field.form == "lines":
        return lines
    try:
        return read_notes(lines)
    except RhocacheError:
        return text  # which the model refuses, at its field


def _shown(
    request: Request,
    kind: str,
    like: str,
    controls: list[Control],
    *,
    plan: Validation | None = None,
    problem: ProblemError | None = None,
    taken: str | None = None,
) -> HTMLResponse:
    # What must be said, and what belongs to it: a model's weights beside the model.
    main = list(dict.fromkeys(each.field.path[0] for each in controls if each.field.required))
    errors = _at_fields(controls, problem) if problem else {}
    return page(
        "submit.html",
        request,
        problem.status if problem else 200,
        roots=request.app.state.settings.roots,
        kinds=sorted(KINDS),
        kind=kind,
        like=like,
        main=[each for part in main for each in controls if each.field.path[0] == part],
        more=[each for each in controls if each.field.path[0] not in main],
        models=known_tags() if kind == DEFAULT else {},
        errors=errors,
        problem=problem,
        plan=plan,
        taken=taken,
    )


def _at_fields(controls: list[Control], problem: ProblemError) -> dict[str, str]:
    """Pointer of each control with a fault -> what is wrong with it.

    A problem that names no field, as one of a place that is not there, is told at the one whose
    value it quotes.
    """
    found: dict[str, str] = {}
    for control in controls:
        pointer = control.field.pointer
        own = [
            error.detail
            for error in problem.errors
            if error.pointer == pointer or error.pointer.startswith(f"{pointer}/")
        ]
        if own:
            found[pointer] = "; ".join(own)
    if not problem.errors:
        told = str(problem)
        # Of two with the same place the first: a dataset is looked for before a model is.
        places = {_place(each.text): each.field.pointer for each in reversed(controls)}
        # Before others the one that is named as a value is: roots are listed beside it.
        quoted = [each for each in places if each and repr(each) in told] or [
            each for each in places if each and each in told
        ]
        if quoted:
            found[places[max(quoted, key=len)]] = told
    return found


def _place(text: str) -> str:
    return text.removeprefix("local-dir:") if "/" in text else ""
