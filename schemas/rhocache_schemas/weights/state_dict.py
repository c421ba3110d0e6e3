"""Reads checkpoints of every kind as open_clip state dicts, without running code that they hold.

For the rooms that have torch; the rest of schemas/ does not import this.
"""

# pyright: basic

import json
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from rhocache_schemas import storage
from rhocache_schemas.job.paths import is_local
from rhocache_schemas.reference import LOCAL_DIR
from rhocache_schemas.weights.file import (
    CONFIG,
    CONVERT,
    WEIGHTS,
    check_folder,
    find_weights,
    weights_kind,
)

# What trainers call a model's tensors beside their optimizer's. open_clip knows the first.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "state_dict_ema", "model_ema")
# What torch.compile, FSDP and activation checkpointing put into names, wherever that is.
_INFIXES = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")
# Of OpenAI's models, which are numbers beside the weights.
_NO_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}


@contextmanager
def readable_weights(model: str, pretrained: str | None) -> Generator[tuple[str, str | None]]:
    """Return the ``model`` and ``pretrained`` by which open_clip reads the same weights.

    Those of a file or of a ``local-dir:`` are converted, for as long as the context lasts, where
    open_clip would not take them as they are: wrapped in other dicts or modules, in parts, or
    beside objects. Of a pickle only tensors and plain values are made; whatever else is in it is
    left out, not imported. Other names are given back as they are.

    Raises ValueError with how to convert what can't be read so, and OSError.
    """
    with TemporaryDirectory(prefix="rhocache-weights-") as name:
        folder = Path(name)
        if model.startswith(LOCAL_DIR):
            place = Path(model.removeprefix(LOCAL_DIR)).absolute()
            check_folder(place)
            (folder / CONFIG).symlink_to(place / CONFIG)
            _put(find_weights(place), folder)
            yield LOCAL_DIR + name, None
        elif pretrained is not None and is_local(pretrained):
            path = storage.local_path(pretrained)
            yield model, str(_put(find_weights(path) if path.is_dir() else path, folder))
        else:
            yield model, pretrained


def without_advice(error: BaseException) -> str:
    """Say in one line why a model can't be made; but torch's advice to unpickle all is not ours."""
    text = " ".join(str(error).split())
    if "weights_only" in text:
        return f"its weights come with objects that could run code: {CONVERT}"
    return text[:500]


def _put(path: Path, folder: Path) -> Path:
    """Put weights where open_clip finds them: by a link where it reads them as they are."""
    kind = weights_kind(path)
    if kind == "numpy":  # big_vision's, which are no state_dict
        return _link(path, folder / f"weights{path.suffix}")
    if kind == "index":
        return _save(_read_parts(path, folder), path, folder)
    if kind == "safetensors":
        with _damage_named(path), safe_open(path, "pt") as file:
            names = list(file.keys())
        if _as_open_clip_reads(names, path):
            return _link(path, folder / WEIGHTS)
        return _save(load_file(path), path, folder)
    checkpoint, whole = _unpickle(path, folder, zipped=kind == "zip")
    state = _tensors(checkpoint, path)
    as_it_is = state is checkpoint or state is checkpoint.get("state_dict")
    if whole and as_it_is and _as_open_clip_reads(state, path):
        return _link(path, folder / "open_clip_pytorch_model.bin")
    return _save(state, path, folder)


def _as_open_clip_reads(names: Collection[str], path: Path) -> bool:
    """It leaves out by itself what DistributedDataParallel puts before all names."""
    own = _own_names(names, path)
    ddp = len(own) == len(names) and all(old == f"module.{new}" for new, old in own.items())
    return ddp or list(own) == list(names)


def _link(path: Path, link: Path) -> Path:
    link.symlink_to(path)
    return link


def _save(state: Mapping[str, Tensor], path: Path, folder: Path) -> Path:
    names = _own_names(state, path)
    copies = {own: state[name].detach().clone().contiguous() for own, name in names.items()}
    save_file(copies, folder / WEIGHTS)
    return folder / WEIGHTS


def _read_parts(index: Path, folder: Path) -> dict[str, Tensor]:
    """Read the files among which an index says that a state_dict is divided."""
    try:
        parts = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{index} is no index of weights: it has no weight_map") from error
    state: dict[str, Tensor] = {}
    for part in sorted(map(str, parts)):
        path = index.parent / part
        if path.parent != index.parent or not path.is_file():
            raise ValueError(f"{index} names {part!r}, which is no file beside it")
        kind = weights_kind(path)
        if kind == "safetensors":
            with _damage_named(path):
                state |= load_file(path)
        else:
            state |= _tensors(_unpickle(path, folder, zipped=kind == "zip")[0], path)
    return state


@contextmanager
def _damage_named(path: Path) -> Generator[None]:
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or was cut short: {error}") from error


def _unpickle(path: Path, folder: Path, *, zipped: bool) -> tuple[Any, bool]:
    """Return what a checkpoint holds, and whether that is all: objects are left out.

    Raises ValueError when it can't be had without making objects.
    """
    link = folder / "checkpoint"  # torch goes by what a file is called, too
    link.unlink(missing_ok=True)
    link.symlink_to(path)
    try:
        names = get_unsafe_globals_in_checkpoint(str(link)) if zipped else []
        with warnings.catch_warnings(), safe_globals([_stand_in(name) for name in names]):
            warnings.simplefilter("ignore")  # of pickle protocols
            found = torch.load(link, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({asked[1]})" if asked else ""
        raise ValueError(f"{path} has objects that could run code{what}: {CONVERT}") from error
    except (RuntimeError, EOFError, ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{path} is damaged or was cut short: {error}") from error
    return found, not names


def _stand_in(name: str) -> type:
    """Make a class to be called in place of a checkpoint's own class or function of that name."""
    module, _, attribute = name.rpartition(".")
    kind = _Nothing if module.startswith("numpy") else _EmptyDict
    return type(attribute, (kind,), {"__module__": module, "__qualname__": attribute})


class _EmptyDict:
    """torch lets only dicts of these types be filled, as those of Lightning's parameters are."""

    def __new__(cls, *_: object) -> Any:
        return OrderedDict()


class _Nothing:
    """The state of numpy's types is no dict."""

    def __new__(cls, *_: object) -> Any:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


def _tensors(checkpoint: Any, path: Path) -> Mapping[str, Tensor]:
    """Find a model's tensors in what a training run has saved."""
    if isinstance(checkpoint, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(checkpoint.get(wrapper), Mapping):
                return _tensors(checkpoint[wrapper], path)
        tensors = {name: each for name, each in checkpoint.items() if isinstance(each, Tensor)}
        if tensors:
            return checkpoint if len(tensors) == len(checkpoint) else tensors
    raise ValueError(f"{path} has no state_dict that is one of tensors: {CONVERT}")


def _own_names(names: Iterable[str], path: Path) -> dict[str, str]:
    """Return the model's own name of each tensor, without what wrappers put before it.

    A CLIP is where its ``logit_scale`` is. Raises ValueError where there are several.
    """
    own = {_INFIXES.sub("", name): name for name in names}
    scale = "logit_scale"
    found = {name.removesuffix(scale) for name in own if f".{name}".endswith(f".{scale}")}
    if len(found) > 1 and "" not in found:
        raise ValueError(f"{path} has several models ({', '.join(sorted(found))}): {CONVERT}")
    prefix = "" if not found or "" in found else found.pop()
    return {
        name.removeprefix(prefix): old
        for name, old in own.items()
        if name.startswith(prefix) and name not in _NO_WEIGHTS
    }
