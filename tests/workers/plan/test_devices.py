import pytest
import torch

from rhocache_schemas.errors import InvalidInput
from rhocache_workers.plan.devices import find_device


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_cpu_is_calibrated(precision: str) -> None:
    device = find_device("cpu", precision)
    # From one core without vector instructions to any machine there is.
    assert 1e8 < device.peak_flops < 1e15
    assert device.flops == device.peak_flops * device.utilisation


@pytest.mark.parametrize("name", ["h100", "a100", "l4"])
def test_data_sheets_are_dense_and_half_precision_is_faster(name: str) -> None:
    fp32, bf16, fp16 = (find_device(name, p).peak_flops for p in ("fp32", "bf16", "fp16"))
    assert fp32 < bf16 == fp16 < 1e15


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_is_the_cpu() -> None:
    assert find_device(None, "fp32").name == "cpu"


def test_what_is_not_known() -> None:
    with pytest.raises(InvalidInput, match="'tpu' is not one of cpu, h100, a100, l4"):
        find_device("tpu", "fp32")
    with pytest.raises(InvalidInput, match="'fp8' is not one of fp32, bf16, fp16"):
        find_device("h100", "fp8")
