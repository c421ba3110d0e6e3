import pytest

from rhocache_trainer.loss.moving_average import cosine_gamma


def test_gamma_goes_from_one_to_its_minimum():
    values = [cosine_gamma(epoch, 10, 0.2) for epoch in range(13)]
    assert values[0] == 1.0
    assert values[5] == pytest.approx(0.6)
    assert values[10:] == [0.2] * 3
    assert values == sorted(values, reverse=True)
    assert cosine_gamma(0, 0, 0.2) == 0.2
