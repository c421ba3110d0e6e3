import pytest

from rhocache_trainer.optim import warmup_cosine


def test_warmup_and_cosine():
    values = [warmup_cosine(step, 4, 20) for step in range(21)]
    assert values[:4] == [0.25, 0.5, 0.75, 1.0]
    assert values[4] == 1.0
    assert values[12] == pytest.approx(0.5)
    assert values[20] == pytest.approx(0.0)
    assert warmup_cosine(25, 4, 20) == pytest.approx(0.0)
    assert warmup_cosine(0, 0, 20) == 1.0
