"""Every kind of file that people keep a model's weights in: read the same, or refused with advice.

What open_clip then reads is compared with the state that was saved.
"""

import argparse
import enum
import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip import CLIP
from open_clip.factory import load_state_dict
from safetensors.torch import save_file
from torch import Tensor

from rhocache_schemas.weights.activation import activation_warning
from rhocache_schemas.weights.file import find_weights
from rhocache_schemas.weights.state_dict import readable_weights, without_advice

from ...conftest import TINY

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLIP(**json.loads(json.dumps(TINY))).state_dict()


def read(path: Path) -> State:
    """By open_clip's own reader, of what it is given."""
    with readable_weights("ViT-B-32", str(path)) as (model, pretrained):
        assert model == "ViT-B-32"
        return {name: each.clone() for name, each in load_state_dict(str(pretrained)).items()}


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name].to(tensor.dtype), tensor), name


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


class Colour(enum.Enum):
    RED = 1


class AttributeDict(dict):
    """As Lightning saves its parameters."""


class Settings:
    def __init__(self) -> None:
        self.rate = np.float64(0.1)


def of_open_clips_training(state: State) -> Any:
    return {
        "epoch": 3,
        "name": "run",
        "state_dict": prefixed(state, "module."),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]},
        "scaler": {"scale": 65536.0},
    }


def beside_numpy(state: State) -> Any:
    random = np.random.RandomState(0).get_state()
    best = {"accuracy": np.float64(0.5), "epoch": np.int64(3), "dtype": np.dtype("float32")}
    return {"state_dict": state, "best": best, "rng": random, "curve": np.arange(3.0)}


def beside_objects(state: State) -> Any:
    return {
        "args": argparse.Namespace(lr=1e-3, out=Path("runs"), colour=Colour.RED),
        "model": state,
        "hyper_parameters": AttributeDict(lr=1e-3, nested=AttributeDict(a=1)),
        "settings": Settings(),
        "counts": defaultdict(list, {"a": [1]}),
    }


def of_lightning(state: State) -> Any:
    others = {"loss.u": torch.zeros(3), "metric.total": torch.zeros(())}
    return {"state_dict": prefixed(state, "model.") | others, "pytorch-lightning_version": "2.5"}


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        OrderedDict,
        lambda state: {"state_dict": state},
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"model_state_dict": state},
        lambda state: {"module": state, "dp_world_size": 8},  # DeepSpeed's
        lambda state: {"state_dict_ema": state},
        lambda state: {"model": {"state_dict": state}},
        lambda state: prefixed(state, "module."),
        lambda state: prefixed(state, "_orig_mod."),
        lambda state: prefixed(state, "module._orig_mod."),
        lambda state: {
            name.replace("visual.", "visual._orig_mod."): each for name, each in state.items()
        },
        lambda state: prefixed(state, "module.") | {"n_averaged": torch.tensor(3)},
        lambda state: state | {"input_resolution": torch.tensor(224)},  # OpenAI's, re-saved
        lambda state: {**state, "epoch": 3},
        of_open_clips_training,
        beside_numpy,
        beside_objects,
        of_lightning,
    ],
)
def test_checkpoints_of_torch(tmp_path: Path, state: State, wrap: Callable[[State], Any]) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(wrap(state), path)
    assert_same(read(path), state)
    if wrap not in (beside_numpy, beside_objects):  # which are refused in the older format
        legacy(path, wrap(state))
        assert_same(read(path), state)


def test_weights_that_are_fine_are_not_copied(tmp_path: Path, state: State) -> None:
    plain, trained, safe = (tmp_path / name for name in ("a.pt", "b.pth", "c.safetensors"))
    torch.save(state, plain)
    torch.save(of_open_clips_training(state), trained)
    save_file(state, safe)
    for path in (plain, trained, safe):
        with readable_weights("ViT-B-32", str(path)) as (_, given):
            assert Path(str(given)).readlink() == path
        assert_same(read(path), state)


def test_half_precision_and_other_suffixes(tmp_path: Path, state: State) -> None:
    half = {name: tensor.half() for name, tensor in state.items()}
    save_file(half, tmp_path / "weights.bin")  # safetensors, whatever it is called
    torch.save(half, tmp_path / "weights.safetensors")
    for name in ("weights.bin", "weights.safetensors"):
        assert_same(read(tmp_path / name), half)
    save_file(prefixed(half, "module.model."), tmp_path / "weights.ckpt")
    assert_same(read(tmp_path / "weights.ckpt"), half)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_weights_in_parts(tmp_path: Path, state: State, suffix: str) -> None:
    names = sorted(state)
    parts = {f"model-0000{i + 1}-of-00003.{suffix}": names[i::3] for i in range(3)}
    for part, of in parts.items():
        tensors = {name: state[name] for name in of}
        save_file(tensors, tmp_path / part) if suffix == "safetensors" else torch.save(
            tensors, tmp_path / part
        )
    index = tmp_path / f"model.{suffix}.index.json"
    weight_map = {name: part for part, of in parts.items() for name in of}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_same(read(index), state)
    assert find_weights(tmp_path) == index
    assert_same(read(tmp_path), state)
    weight_map[names[0]] = "../elsewhere.bin"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=r"elsewhere\.bin.* no file beside it"):
        read(index)


def test_a_folder_is_read_by_the_file_that_open_clip_prefers(tmp_path: Path, state: State) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    torch.save({}, tmp_path / "a.pt")
    torch.save({"model": state}, tmp_path / "open_clip_pytorch_model.bin")
    with readable_weights(f"local-dir:{tmp_path}", None) as (model, pretrained):
        folder = Path(model.removeprefix("local-dir:"))
        assert pretrained is None
        assert folder != tmp_path
        assert_same(load_state_dict(str(find_weights(folder))), state)
        assert json.loads((folder / "open_clip_config.json").read_text())["model_cfg"] == TINY
    assert not folder.exists()


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class Fuse(Bomb):
    def __reduce__(self) -> Any:
        return light, (self.path,)


def light(path: Path) -> None:
    path.touch()


def torch_script(path: Path, state: State) -> None:
    torch.save(state, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", b"")
        archive.writestr("archive/code/__torch__.py", b"")


def legacy(path: Path, checkpoint: Any) -> None:
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)


def cut(path: Path, state: State) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:100_000])


def cut_legacy(path: Path, state: State) -> None:
    legacy(path, state)
    path.write_bytes(path.read_bytes()[:100_000])


def cut_safetensors(path: Path, state: State) -> None:
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:100_000])


def cut_in_the_header(path: Path, state: State) -> None:
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:1000])


def two_models(path: Path, state: State) -> None:
    torch.save(prefixed(state, "student.") | prefixed(state, "teacher."), path)


def arrays(path: Path, state: State) -> None:
    np.savez(path.with_suffix(".npz"), a=np.zeros(1))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", b"")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, _: path.write_bytes(b""), "is empty: download it again"),
        (
            lambda path, _: path.write_text("version https://git-lfs.github.com/spec/v1\noid x\n"),
            "Git LFS pointer.*git lfs pull",
        ),
        (lambda path, _: path.write_text("\n <!DOCTYPE html><html>"), "is a web page"),
        (lambda path, _: path.write_text("<html>404"), "is a web page"),
        (lambda path, _: path.write_text('{"error": "gone"}'), "neither safetensors nor"),
        (lambda path, _: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "re-save the model's state_dict"),
        (cut, "was cut short, at 100,000 bytes: download it again"),
        (cut_legacy, "damaged or was cut short"),
        (cut_safetensors, "damaged or was cut short"),
        (cut_in_the_header, "was cut short, at 1,000 bytes"),
        (torch_script, "TorchScript archive.*openai.*re-save the model's state_dict"),
        (two_models, r"several models \(student\., teacher\.\)"),
        (arrays, "zip archive without weights"),
        (lambda path, _: torch.save(CLIP(**json.loads(json.dumps(TINY))), path), "state_dict"),
        (lambda path, _: torch.save([1, 2], path), "no state_dict"),
        (lambda path, _: torch.save({"epoch": 3}, path), "no state_dict"),
        (
            lambda path, state: torch.save(
                {"model": state, "os": Bomb(path.parent / "mark")}, path
            ),
            r"could run code \(\w+\.mkdir\): re-save",
        ),
        (
            lambda path, state: torch.save({"state_dict": Fuse(path.parent / "mark")}, path),
            "no state_dict",
        ),
        (
            lambda path, state: legacy(path, {"state_dict": state, "x": Settings()}),
            "could run code.*re-save the model's state_dict with safetensors",
        ),
        (lambda path, _: path.write_bytes(pickle.dumps({"a": 1}, 5)), "re-save the model's"),
        (lambda path, _: path.write_bytes(pickle.dumps(Fuse(path.parent / "mark"), 2)), "re-save"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, state: State, make: Callable[[Path, State], Any], message: str
) -> None:
    path = tmp_path / "weights.pt"
    make(path, state)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "mark").exists()


def test_what_is_left_out_is_not_run(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": state, "more": [Fuse(tmp_path / "mark")]}, path)
    assert_same(read(path), state)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([".metadata", "__0_0.distcp"], "distributed checkpoint.*dcp_to_torch"),
        (["latest", "zero_to_fp32.py"], "DeepSpeed.*zero_to_fp32.py"),
        (["mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_optim_states.pt"], "DeepSpeed"),
        (["config.json"], "no weights"),
    ],
)
def test_folders_of_training_runs(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_torchs_own_advice_is_not_passed_on() -> None:
    buffer = io.BytesIO()
    torch.save(Settings(), buffer)
    buffer.seek(0)
    with pytest.raises(pickle.UnpicklingError, match="weights_only") as caught:
        torch.load(buffer, weights_only=True)
    assert "weights_only" not in without_advice(caught.value)
    assert "re-save" in without_advice(caught.value)


@pytest.mark.parametrize(
    ("model", "pretrained", "config", "warned"),
    [
        ("ViT-B-32", "/w/ViT-B-32.pt", {}, "GELU"),
        ("ViT-B-32-quickgelu", "/w/ViT-B-32.pt", {"quick_gelu": True}, None),
        ("ViT-B-32", "/w/vit_b_32-quickgelu-laion400m_e32-46683a32.pt", {}, "QuickGELU"),
        ("ViT-H-14", "/hub/models--apple--DFN5B-CLIP-ViT-H-14/snapshots/ab/m.bin", {}, "QuickGELU"),
        ("ViT-L-14", "/hub/models--apple--DFN2B-CLIP-ViT-L-14-39B/snapshots/ab/m.bin", {}, None),
        ("ViT-H-14-quickgelu", "/w/h14_v1.2_altogether.pt", {"quick_gelu": True}, "leave out"),
        ("ViT-B-32", "/w/my-quick-gelu-run/last.pt", {}, "QuickGELU"),
        ("ViT-B-32", "/w/vit_openai/last.pt", {}, "QuickGELU"),
        ("ViT-B-32", "/w/epoch_3.pt", {}, None),
        ("ViT-B-32", "/w/laion2b.pt", {"quick_gelu": True}, None),
        ("hf-hub:apple/DFN5B-CLIP-ViT-H-14", None, {}, "QuickGELU"),
        ("local-dir:/w/vit_base_patch32_clip_224.openai", None, {}, "QuickGELU"),
        ("local-dir:/w/vit_base_patch32_clip_224.openai", None, {"quick_gelu": True}, None),
    ],
)
def test_quick_gelu_is_told_by_names(
    model: str, pretrained: str | None, config: dict[str, Any], warned: str | None
) -> None:
    warning = activation_warning(model, pretrained, config)
    assert (warning is None) == (warned is None)
    assert warned is None or warned in str(warning)
