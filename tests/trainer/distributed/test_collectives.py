"""Several processes against one with the whole batch, which test_loss.py holds to autograd."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rhocache_trainer.distributed.launch import launch

from .rank_steps import (
    ASKED,
    BATCH,
    SCENARIOS,
    SIZES,
    STEPS,
    N,
    Outcome,
    distilled,
    mixed_dtypes,
    run,
    run_wrapped,
)

PROGRAM = Path(__file__).with_name("rank_steps.py")


@pytest.fixture(scope="module")
def alone() -> dict[str, Outcome]:
    whole = {"parts": 1, "recompute": False}
    return {name: run(scenario | whole, [BATCH], 0) for name, scenario in SCENARIOS.items()}


@pytest.fixture(scope="module", params=SIZES)
def together(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, list[list[Outcome]]]:
    """What each rank of so many ended with, by scenario."""
    world_size, folder = request.param, tmp_path_factory.mktemp("ranks")
    (folder / "store.json").write_text(json.dumps(ASKED[world_size]))
    outs = [folder / f"{rank}.pt" for rank in range(world_size)]
    started = [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(rank), str(world_size), folder / "store", out],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, out in enumerate(outs)
    ]
    for process in started:
        _, told = process.communicate()
        assert process.returncode == 0, told
    return world_size, [torch.load(out) for out in outs]


@pytest.fixture
def of_two(together: tuple[int, list[list[Outcome]]]) -> list[list[Outcome]]:
    """What each of two ranks ended with, in what two alone do."""
    world_size, ranks = together
    if world_size != 2:
        pytest.skip("done by two ranks")
    return ranks


def test_gradients_are_those_of_one_process(
    alone: dict[str, Outcome], together: tuple[int, list[list[Outcome]]]
) -> None:
    world_size, ranks = together
    for number, asked in enumerate(ASKED[world_size]):
        expected = alone[asked["name"]]
        # Each rank's gradients are rounded to bfloat16 before they are added up.
        atol = 2**-8 if asked["name"] == "mixed" else 1e-12
        for rank in ranks:
            for what in ("objectives", "gradients", "state"):
                torch.testing.assert_close(rank[number][what], expected[what], rtol=0, atol=atol)


def test_every_rank_has_the_same_state_to_the_bit(
    together: tuple[int, list[list[Outcome]]],
) -> None:
    _, (first, *others) = together
    for other in others:
        for one, two in zip(first, other, strict=True):
            if "state" not in one:
                continue
            assert all(torch.equal(one["state"][name], two["state"][name]) for name in one["state"])


def test_features_travel_once_and_scalars_after(
    together: tuple[int, list[list[Outcome]]],
) -> None:
    """Of float64 features of 5 numbers and reference features of 4, two of each a pair."""
    world_size, ranks = together
    even = next(n for n, asked in enumerate(ASKED[world_size]) if asked["name"] == "drrho")
    pairs = BATCH // world_size
    features = pairs * 8 * (2 * 5 + 2 * 4 + 1)  # with the index
    scalars = 8 * 3 * (BATCH + pairs) + 8 * 5  # peak, total, moment; and the sizes
    assert ranks[0][even]["bytes_sent"] == STEPS * (world_size - 1) * (features + scalars)


def test_a_sharded_u_changes_no_bit(together: tuple[int, list[list[Outcome]]]) -> None:
    world_size, ranks = together
    for number, asked in enumerate(ASKED[world_size]):
        if asked["name"] == "individual":
            continue
        plain, shards = ranks[0][number], [rank[number]["sharded"] for rank in ranks]
        for rank, shard in zip(ranks, shards, strict=True):
            for what in ("objectives", "gradients"):
                torch.testing.assert_close(shard[what], rank[number][what], rtol=0, atol=0)
        for name, whole in plain["state"].items():
            rows = [shard["state"][name] for shard in shards]
            if whole.shape == (N,):
                assert {len(each) for each in rows} == {math.ceil(N / world_size)}
                assert torch.equal(torch.cat(rows)[:N], whole)
                assert not torch.cat(rows)[N:].any()
            else:
                assert all(torch.equal(each, whole) for each in rows)


def test_of_a_sharded_u_only_the_batchs_travels(
    together: tuple[int, list[list[Outcome]]],
) -> None:
    """As float64, with whether it was seen, of either side."""
    world_size, ranks = together
    outcome = ranks[0][next(n for n, a in enumerate(ASKED[world_size]) if a["name"] == "drrho")]
    more = outcome["sharded"]["bytes_sent"] - outcome["bytes_sent"]
    assert more == STEPS * (world_size - 1) * 2 * 2 * BATCH * 8


def test_a_sharded_u_that_is_not_a_ranks_own(
    of_two: list[list[Outcome]],
) -> None:
    for number, rank in enumerate(of_two):
        told, plain = rank[-2], run_wrapped("learnable", 0, 1)
        assert told["early"].startswith(
            "a sharded loss was made on one of 1 ranks, and there are 2"
        )
        for name in ("looks", "model.image.weight", "loss.temperature.tau"):
            torch.testing.assert_close(told["shards"][name], plain[name], rtol=0, atol=1e-12)
        refused = "rank 1 has got rank 0's state of its loss: make DistributedDataParallel with"
        kept, broadcast = told["broadcast"]
        assert kept == f"rank {number} has {number}"
        assert broadcast.startswith(refused if number else "rank 0 has 0")


def test_a_module_with_its_loss_can_be_wrapped(
    of_two: list[list[Outcome]],
) -> None:
    """By DistributedDataParallel, whatever the temperatures are: to the same weights, u and τ."""
    for rank in of_two:
        for wrapped in rank[len(ASKED[2]) : len(ASKED[2]) + 2]:
            for mode, state in wrapped.items():
                torch.testing.assert_close(state, run_wrapped(mode, 0, 1), rtol=0, atol=1e-12)


def test_ranks_distil_from_several_references_as_one_process(
    of_two: list[list[Outcome]],
) -> None:
    for rank in of_two:
        torch.testing.assert_close(rank[-2]["distilled"], distilled(0, 1), rtol=0, atol=1e-5)


def test_ranks_may_differ_in_dtype_and_in_what_a_risk_has_seen(
    of_two: list[list[Outcome]],
) -> None:
    for number, rank in enumerate(of_two):
        dtypes, risk = rank[-2:]
        assert dtypes["objective"] == pytest.approx(mixed_dtypes(0, 1))
        assert risk["False"] == "8 seen"
        refused = "rank 1 has got rank 0's state of its risk: make DistributedDataParallel with"
        assert risk["True"].startswith(refused if number else "8 seen")


def test_a_batch_that_can_not_be_is_refused_by_every_rank(
    of_two: list[list[Outcome]],
) -> None:
    both = ["index 0 comes 2 times in one batch"]
    both += ["the ranks' features have different widths: [[5, 5], [4, 4]]"]
    first, second = (rank[-2]["refusals"] for rank in of_two)
    assert first == ["rank 1 has refused its part of the batch", *both]
    assert second[0].startswith("image features must be unit vectors, but row 0 has norm 2")
    assert second[1:] == both


@pytest.mark.parametrize("recompute", [False, True])
def test_parts_give_the_gradients_of_the_whole(alone: dict[str, Outcome], recompute: bool) -> None:
    for parts in (2, 3, 5):
        in_parts = run({"parts": parts, "recompute": recompute}, [BATCH], 0)
        torch.testing.assert_close(
            in_parts["gradients"], alone["drrho"]["gradients"], rtol=0, atol=1e-12
        )


def test_dropout_is_the_same_when_it_is_computed_again() -> None:
    kept, again = (
        run({"parts": 3, "dropout": 0.5, "recompute": recompute}, [BATCH], 0)
        for recompute in (False, True)
    )
    torch.testing.assert_close(kept["gradients"], again["gradients"], rtol=0, atol=1e-12)


def test_a_launchers_empty_variables_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "")
    assert launch("cpu", "fp32").world_size == 1
