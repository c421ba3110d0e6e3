import pickle

from rhocache_workers.stage_times import Stages


def test_the_busiest_stage_is_named_first() -> None:
    stages = Stages(decoders=2, elapsed=10.0)
    stages.add_seconds("image", 9.0)
    stages.add_seconds("text", 0.5)
    stages.add_seconds("decode", 4.0)
    assert str(stages) == (
        "image tower, 90% busy (decoding images 20%, text tower 5%, towers idle 5%)"
    )
    both = Stages()
    both.add(stages)
    both.add(pickle.loads(pickle.dumps(stages)))
    assert str(both) == str(stages)
    assert both.elapsed == 20.0


def test_slow_storage_is_told() -> None:
    stages = Stages(elapsed=10.0)
    stages.add_seconds("image", 1.0)
    stages.add_seconds("read", 9.9)
    assert str(stages).startswith("reading the dataset, 99% busy (image tower 10%")
    assert str(stages).endswith("towers idle 90%)")


def test_nothing_was_done() -> None:
    assert str(Stages()) == "nothing"
