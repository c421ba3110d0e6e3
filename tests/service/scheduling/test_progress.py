from rhocache_schemas.cache.documents import Progress, ShardOutcome
from rhocache_service.scheduling.progress import ended_between, events_between


def progress(run: float, ended: int, known: int) -> Progress:
    """Of a run in which shards 1 to ``ended`` have ended, and names the last ``known`` of them."""
    names = range(ended - known + 1, ended + 1)
    recent = [ShardOutcome(shard=str(name), rows=2) for name in names]
    return Progress(
        phase="encoding", started_at=run, shards_ended=ended, recent=recent, updated_at=ended
    )


def names(before: Progress | None, now: Progress) -> list[str]:
    return [outcome.shard for outcome in ended_between(before, now)]


def test_each_shard_is_told_once() -> None:
    assert names(None, progress(1, 3, 3)) == ["1", "2", "3"]
    assert names(progress(1, 3, 3), progress(1, 5, 5)) == ["4", "5"]
    assert names(progress(1, 5, 5), progress(1, 5, 5)) == []


def test_a_new_run_begins_anew() -> None:
    assert names(progress(1, 3, 3), progress(2, 4, 4)) == ["1", "2", "3", "4"]


def test_of_too_many_the_newest_are_told() -> None:
    assert names(progress(1, 3, 3), progress(1, 100, 5)) == ["96", "97", "98", "99", "100"]


def test_what_is_told() -> None:
    now = progress(1, 1, 1).model_copy(
        update={"shards_ended": 2, "recent": [
            ShardOutcome(shard="0", rows=2, failed=1), ShardOutcome(shard="1", code="io_error"),
        ]}
    )  # fmt: skip
    committed, failed, far = events_between(None, now)
    assert committed == ("shard.committed", {"shard": "0", "rows": 2, "failed": 1})
    assert failed == ("shard.failed", {"shard": "1", "rows": 0, "failed": 0, "code": "io_error"})
    assert far[0] == "job.progress"
    assert "recent" not in far[1]


def test_an_event_names_some_of_thousands_of_shards_in_progress() -> None:
    shards = [f"{number}.tar" for number in range(2000)]
    now = progress(1, 1, 1).model_copy(update={"shards_in_progress": shards})
    *_, (_, data) = events_between(None, now)
    assert data["shards_in_progress"] == shards[:100]
    assert now.shards_in_progress == shards
