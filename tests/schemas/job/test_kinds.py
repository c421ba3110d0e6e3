"""Which kinds of jobs there are, and which one a document is of."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from rhocache_schemas.api import SUBMISSIONS, read_submission
from rhocache_schemas.job.kinds import KINDS, AnySpec, JobOrder, UnknownKind, installed, read_spec
from rhocache_schemas.job.kinds.score import ScoreSpec

FIELDS = {"dataset": "/d", "output": "/o", "reference": {"model": "local-dir:/m"}}


class Holder(BaseModel):
    spec: AnySpec


def test_what_names_no_kind_is_of_score() -> None:
    spec = read_spec(FIELDS)
    assert spec == ScoreSpec.model_validate(FIELDS | {"kind": "score"})
    assert isinstance(read_submission(FIELDS | {"priority": 3}), SUBMISSIONS["score"])
    assert Holder.model_validate({"spec": FIELDS}).spec == spec
    assert Holder.model_validate_json(Holder(spec=spec).model_dump_json()).spec == spec


def test_a_kind_that_is_not_installed_is_shown_and_never_taken() -> None:
    odd = {"kind": "odd", "output": "/o", "more": {"x": [1]}}
    spec = read_spec(odd)
    assert isinstance(spec, UnknownKind)
    assert odd.items() <= Holder.model_validate({"spec": spec}).model_dump()["spec"].items()
    with pytest.raises(ValidationError, match=r"kind\n  Input should be .*'score'"):
        read_submission(odd)


@pytest.mark.parametrize("given", [None, [], "score", {"kind": ["score"]}, {"kind": "score"}])
def test_what_is_no_spec(given: object) -> None:
    with pytest.raises(ValidationError):
        read_submission(given)


def test_every_kind_names_itself() -> None:
    assert {name: kind.model_fields["kind"].default for name, kind in KINDS.items()} == {
        name: name for name in KINDS
    }


def test_an_order_keeps_the_kind() -> None:
    order = JobOrder(job="job_1", start=1, spec=read_spec(FIELDS), roots=["/"])
    assert JobOrder.parse(order.to_json(), "job.json") == order
    assert isinstance(order.spec, ScoreSpec)


def test_no_other_package_replaces_a_kind_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = "rhocache_schemas.job.kinds"
    folder = tmp_path / "other-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    entries = f"[{package}]\nscore = other:Evil\nmore = other:More\n"
    (folder / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(tmp_path)
    found = installed(package, "Spec")
    assert (found["more"].value, found["score"].load()) == ("other:More", ScoreSpec)
