import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhocache_schemas.errors import InvalidDocument, JobStateConflict
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import TRANSITIONS, JobState, transition

SPEC = {"dataset": "d", "output": "o", "reference": {"model": "local-dir:m"}}


def test_every_state_has_its_transitions_and_leads_to_an_end() -> None:
    assert set(TRANSITIONS) == set(JobState)
    for state in JobState:
        reached, frontier = {state}, {state}
        while frontier:
            frontier = {t for s in frontier for t in TRANSITIONS[s]} - reached
            reached |= frontier
        assert any(s.terminal for s in reached)


@given(st.sampled_from(JobState), st.sampled_from(JobState))
def test_only_listed_transitions_pass(current: JobState, new: JobState) -> None:
    if new in TRANSITIONS[current]:
        assert transition("job_1", current, new) is new
    else:
        with pytest.raises(JobStateConflict, match=f"job_1 is {current}"):
            transition("job_1", current, new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": ""}, "dataset: "),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "large"}, "batch_size"),
        ({"workers": 0}, "workers"),
        ({"error_budget": 1.5}, "error_budget"),
        ({"dtype": "int4"}, "dtype"),
        ({"entrypoint": "rm -rf /"}, "entrypoint: unknown field"),
        ({"metadata": {"a": "b" * 600}}, "metadata"),
    ],
)
def test_bad_specs_name_the_field(change: dict, message: str) -> None:
    import json

    with pytest.raises(InvalidDocument, match=message):
        ScoreSpec.parse(json.dumps(SPEC | change).encode(), "spec")
