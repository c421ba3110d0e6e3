"""Detects the format of a file of weights, and refuses a file that holds none."""

import json
import zipfile
from pathlib import Path
from typing import Any, Literal, cast

WeightsKind = Literal["safetensors", "zip", "pickle", "numpy", "index"]

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
CONVERT = "re-save the model's state_dict with safetensors, in an environment that you trust it in"

# Of a folder's files, as open_clip prefers them.
_PREFERRED = (
    WEIGHTS,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_SUFFIXES = (".safetensors.index.json", ".bin.index.json", ".safetensors", ".bin", ".pth", ".pt")


def check_folder(folder: Path) -> None:
    """Say in plain words why a folder is no model that open_clip could load. Raises ValueError."""
    config = folder / CONFIG
    if not folder.is_dir():
        raise ValueError(f"no folder {folder} to load a model from")
    if not config.is_file():
        raise ValueError(f"{folder} has no {CONFIG}: it is no exported open_clip model")
    try:
        document: Any = json.loads(config.read_bytes())
    except ValueError as error:
        raise ValueError(f"{config} is not JSON: {error}") from error
    if not isinstance(document, dict):
        document = {}
    model = cast("dict[str, Any]", document).get("model_cfg")
    if not isinstance(model, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(
        cast("dict[str, Any]", model)
    ):
        raise ValueError(f"{config} has no model_cfg with embed_dim, vision_cfg and text_cfg")


def find_weights(folder: Path) -> Path:
    """Return the file of weights in a folder, or the index of those that hold parts of them.

    Raises ValueError when there is none, with what to do about a training run's own folders.
    """
    names = sorted(entry.name for entry in folder.iterdir())
    if any(name.endswith(".distcp") for name in names):
        raise ValueError(
            f"{folder} is a distributed checkpoint: make it one file with "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        )
    if "zero_to_fp32.py" in names or any("_optim_states" in name for name in names):
        raise ValueError(
            f"{folder} is a checkpoint of DeepSpeed: make it one file with its zero_to_fp32.py"
        )
    for name in _PREFERRED:
        if name in names:
            return folder / name
    for suffix in _SUFFIXES:
        for name in names:
            if name.endswith(suffix):
                return folder / name
    raise ValueError(f"{folder} has no weights: no {WEIGHTS}")


def weights_kind(path: Path) -> WeightsKind:
    """Tell by its first bytes what a file is, whatever its name says.

    Raises ValueError with what to do, for one that holds no weights, or only a part of them, or
    that can't be read without running what is in it; OSError when it can't be read at all.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
    start = head.lstrip().lower()
    if not head:
        raise ValueError(f"{path} is empty: download it again")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a Git LFS pointer, not the weights: run git lfs pull there")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path} is a web page, not weights: download the file itself")
    if path.name.endswith(".index.json"):
        return "index"
    if head.startswith(b"PK\x03\x04"):
        return _archive_kind(path, size)
    if head.startswith(b"\x93NUMPY"):
        return "numpy"
    if head.startswith(b"\x80"):
        return "pickle"
    if head[8:9] == b"{":
        _check_safetensors(path, size)
        return "safetensors"
    raise ValueError(f"{path} is neither safetensors nor a checkpoint of PyTorch's: {CONVERT}")


def _archive_kind(path: Path, size: int) -> WeightsKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise _cut_short(path, size) from error
    files = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in files:
        raise ValueError(
            f"{path} is a TorchScript archive, as OpenAI's own files are: it is a program, which "
            f"is not run. Name the weights by open_clip's tag (openai), or {CONVERT}"
        )
    if "data.pkl" in files:
        return "zip"
    if files and all(name.endswith(".npy") for name in files):
        return "numpy"
    raise ValueError(f"{path} is a zip archive without weights: unpack it")


def _check_safetensors(path: Path, size: int) -> None:
    """A header that is whole, but names more bytes than there are, is told by safetensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length + 8 > size:
        raise _cut_short(path, size)


def _cut_short(path: Path, size: int) -> ValueError:
    return ValueError(f"{path} was cut short, at {size:,} bytes: download it again")
