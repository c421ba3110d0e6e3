"""A job's states, driven at random against a model of what is legal."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from rhocache_schemas.errors import JobStateConflict
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import open_database
from rhocache_service.settings import Settings

SPEC = ScoreSpec.model_validate(
    {"dataset": "/d", "output": "/o", "reference": {"model": "local-dir:/m"}}
)
# Written out again, so that a slip in the table of the code is not copied.
LEGAL = {
    "validating": "queued failed cancelling expired",
    "queued": "in_progress failed cancelling expired",
    "in_progress": "finalizing failed cancelling",
    "finalizing": "completed failed",
    "cancelling": "cancelled expired failed",
    "completed": "",
    "failed": "",
    "cancelled": "",
    "expired": "",
}


class Jobs(RuleBasedStateMachine):
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        url = Settings(data_dir=Path(self._folder.name)).registry_url
        self._registry = Registry(open_database(url))
        self._expected: dict[str, list[str]] = {}  # the states that each job has been in

    def teardown(self) -> None:
        self._registry.close()
        self._folder.cleanup()

    @rule(target=jobs)
    def add(self) -> str:
        job = self._registry.add(SPEC).id
        self._expected[job] = ["validating"]
        return job

    @rule(job=jobs, new=st.sampled_from(JobState))
    def advance(self, job: str, new: JobState) -> None:
        row = self._registry.get(job)
        if job not in self._expected:
            assert row is None
            return
        assert row is not None
        if new in LEGAL[self._expected[job][-1]].split():
            self._registry.advance(row, new)
            self._expected[job].append(new)
        else:
            with pytest.raises(JobStateConflict):
                self._registry.advance(row, new)

    @rule(job=jobs, new=st.sampled_from(JobState), between=st.sampled_from(JobState))
    def advance_what_another_has_moved(self, job: str, new: JobState, between: JobState) -> None:
        """One service acts on what it saw; another was faster."""
        row = self._registry.get(job)
        if row is None or between not in LEGAL[row.status].split():
            return
        self._registry.advance(row, between)
        self._expected[job].append(between)
        with pytest.raises(JobStateConflict):
            self._registry.advance(row, new)
        assert not self._registry.note(row, [("job.progress", {})])

    @rule(job=jobs)
    def delete(self, job: str) -> None:
        row = self._registry.get(job)
        if row is None:
            return
        if LEGAL[row.status]:
            with pytest.raises(JobStateConflict):
                self._registry.delete(row)
        else:
            self._registry.delete(row)
            del self._expected[job]

    @invariant()
    def the_registry_and_its_events_agree(self) -> None:
        for job, states in self._expected.items():
            row = self._registry.get(job)
            assert row is not None
            assert row.status == states[-1]
            assert [event.data["status"] for event in self._registry.events(job, 0)] == states
            assert row.last_event == len(states)
            assert set(row.times) == set(states)


Jobs.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestJobs = Jobs.TestCase
