from rich.console import Console

from rhocache import tables
from rhocache_workers.cost import Cost, Storage, Work
from rhocache_workers.devices import Device


def test_a_cost_is_told_in_units_that_fit() -> None:
    found = Cost(
        dataset="d",
        model="m",
        precision="bf16",
        shards=12_800,
        bytes=10**12,
        pairs=128_000_000,
        pairs_estimated=True,
        work=Work(8_817_622_304, 1_440_000_000, 5_959_540_736, 18.83, 77),
        device=Device("h100", 989e12, 0.35),
        predicted_hours=2.0,
        measured_hours=None,
        measured_over_predicted=None,
        storage={"float16": Storage(2100.4, 268_851_200_000)},
    )
    console = Console(width=120)
    with console.capture() as shown:
        console.print(tables.cost(found))
    assert [line.rstrip() for line in shown.get().splitlines()] == [
        "dataset           12,800 shards, 1.0 TB",
        "pairs             128,000,000, estimated",
        "image tower       8.82 GFLOP",
        "text tower        1.44 GFLOP at 18.8 positions (5.96 GFLOP at all 77)",
        "a pair            10.3 GFLOP",
        "device            h100, 989 TFLOP/s in bf16, of which 35% is expected",
        "hours             2 (17,778 pairs/s), predicted",
        "cache in float16  268.9 GB, 2,100 bytes a pair",
    ]
