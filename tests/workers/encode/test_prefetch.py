import threading
from collections.abc import Iterator

import pytest

from rhocache_workers.encode.prefetch import ReadAhead


def test_everything_comes_in_order_and_errors_at_their_place() -> None:
    def items() -> Iterator[int]:
        yield from range(100)
        raise ValueError("damaged")

    with ReadAhead(items(), 3) as ahead:
        rows = iter(ahead)
        assert [next(rows) for _ in range(100)] == list(range(100))
        with pytest.raises(ValueError, match="damaged"):
            next(rows)


def test_it_reads_no_further_than_it_may() -> None:
    taken = []
    enough = threading.Event()

    def items() -> Iterator[int]:
        for i in range(1000):
            taken.append(i)
            if i == 4:
                enough.set()
            yield i

    with ReadAhead(items(), 3) as ahead:
        assert next(iter(ahead)) == 0
        assert enough.wait(10)
        assert len(taken) == 5  # one given, three waiting, one in hand
    assert not any(thread.name == "read-ahead" for thread in threading.enumerate())
    assert len(taken) < 10
