"""Jobs are found by words and states, in both databases."""

import pytest
from sqlalchemy.engine import Engine

from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.registry.api_keys import Keys
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.search import PAGE, find_jobs


def spec(dataset: str, model: str = "local-dir:/m", **metadata: str) -> ScoreSpec:
    return ScoreSpec.model_validate(
        {
            "dataset": dataset,
            "output": "/out",
            "reference": {"model": model, "pretrained": None if ":" in model else "openai"},
            "metadata": metadata,
        }
    )


def names(engine: Engine, words: str) -> list[str]:
    return [row.spec["dataset"] for row in find_jobs(engine, words, None, 1).rows]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", ["/data/coco", "/data/laion"]),
        ("LAION", ["/data/laion"]),
        ("data siglip", ["/data/laion"]),
        ("openai", ["/data/laion"]),
        ("steer", ["/data/coco"]),
        ("größe", ["/data/coco"]),  # of metadata, which JSON escapes
        ("vision", ["/data/laion"]),  # the name of its API key
        ("coco laion", []),
        ("la%n", []),
        ("100%", ["/data/coco"]),
        ("'; drop table jobs", []),
    ],
)
def test_every_word_must_be_somewhere(database: Engine, words: str, found: list[str]) -> None:
    registry, (key, _) = Registry(database), Keys(database).create("vision", ["admin"])
    registry.add(spec("/data/laion", "ViT-B-16-SigLIP"), api_key=key.id)
    registry.add(spec("/data/coco", name="Steer größe 100%"))
    assert names(database, words) == found
    assert find_jobs(database, "", None, 1).owners == {key.id: "vision"}


def test_jobs_at_work_come_first_and_every_job_has_its_page(database: Engine) -> None:
    registry = Registry(database)
    running = registry.advance(registry.add(spec("/first")), JobState.QUEUED)
    registry.advance(running, JobState.IN_PROGRESS)
    rows = [registry.add(spec(f"/{number}")) for number in range(PAGE + 9)]
    for row in rows[:20]:
        registry.advance(row, JobState.FAILED)
    pages = [find_jobs(database, "", None, page) for page in (1, 2, 3)]
    listed = [row.spec["dataset"] for page in pages for row in page.rows]
    waiting, ended = reversed(range(20, PAGE + 9)), reversed(range(20))
    assert listed == ["/first", *(f"/{number}" for number in [*waiting, *ended])]
    counts = pages[0].counts
    assert (counts[JobState.FAILED], counts[JobState.VALIDATING]) == (20, PAGE - 11)
    assert (counts[JobState.IN_PROGRESS], counts[JobState.EXPIRED]) == (1, 0)
    only = find_jobs(database, "", JobState.FAILED, 1)
    assert len(only.rows) == 20
    assert only.counts == counts
