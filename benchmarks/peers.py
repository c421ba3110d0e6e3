"""How the same is done without rhocache, as the libraries' own documents have it."""

import io
import json
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

Embedded = dict[str, tuple[np.ndarray, np.ndarray]]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_reference(folder: Path, architecture: dict[str, Any] | None = None) -> str:
    """Export an architecture, ViT-B-32 by default, with random weights as a ``local-dir``."""
    if architecture is None:
        architecture = open_clip.get_model_config("ViT-B-32") or {}
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = open_clip.CLIP(**deepcopy(architecture))
    save_file(model.state_dict(), str(folder / "open_clip_model.safetensors"))
    config = {"model_cfg": architecture, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return str(folder)


def load(model: str) -> tuple[Any, Any, Any]:
    loaded: Any = open_clip.create_model_from_pretrained(f"local-dir:{model}", device=DEVICE)
    made, preprocess = loaded
    return made.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{model}")


def pairs(tars: list[str]) -> Iterator[tuple[str, bytes, str]]:
    for path in tars:
        with tarfile.open(path) as tar:
            members: dict[str, dict[str, bytes]] = {}
            for info in tar:
                key, _, suffix = info.name.partition(".")
                file = tar.extractfile(info)
                members.setdefault(key, {})[suffix] = file.read() if file else b""
        for key, parts in members.items():
            yield key, parts["jpg"], parts["txt"].decode()


class Pairs(IterableDataset[tuple[str, torch.Tensor, torch.Tensor]]):
    def __init__(self, tars: list[str], preprocess: Any, tokenizer: Any) -> None:
        self._tars, self._preprocess, self._tokenizer = tars, preprocess, tokenizer

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        info = get_worker_info()
        mine = self._tars[info.id :: info.num_workers] if info else self._tars
        for key, image, caption in pairs(mine):
            pixels = self._preprocess(Image.open(io.BytesIO(image)))
            yield key, pixels, self._tokenizer([caption])[0]


@torch.inference_mode()
def plain_loop(model: str, tars: list[str], batch: int) -> tuple[float, Embedded]:
    """open_clip's README in a DataLoader: seconds, and the embeddings."""
    clip, preprocess, tokenizer = load(model)
    embedded: Embedded = {}
    started = time.perf_counter()
    for keys, pixels, tokens in DataLoader(
        Pairs(tars, preprocess, tokenizer), batch_size=batch, num_workers=min(2, len(tars))
    ):
        image = clip.encode_image(pixels.to(DEVICE), normalize=True).cpu().numpy()
        text = clip.encode_text(tokens.to(DEVICE), normalize=True).cpu().numpy()
        embedded |= dict(zip(keys, zip(image, text, strict=True), strict=True))
    return time.perf_counter() - started, embedded


class Predictor:
    """The class that Ray Data's guide to batch inference has for ``map_batches``."""

    def __init__(self, model: str) -> None:
        torch.set_num_threads(2)
        self._clip = load(model)[0]

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        started = time.time()
        pixels, tokens = (torch.as_tensor(batch[name]).to(DEVICE) for name in ("pixels", "tokens"))
        image = self._clip.encode_image(pixels, normalize=True).cpu().numpy()
        text = self._clip.encode_text(tokens, normalize=True).cpu().numpy()
        times = [started] * len(image), [time.time()] * len(image)
        return {"key": batch["key"], "image": image, "text": text,
                "began": times[0], "ended": times[1]}  # fmt: skip


def ray_data(model: str, tars: list[str], batch: int) -> tuple[float, Embedded]:
    """Seconds from the first batch's beginning to the last one's end, and the embeddings."""
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    _, preprocess, tokenizer = load(model)

    def decode(row: dict[str, Any]) -> dict[str, Any]:
        image = Image.fromarray(row["jpg"])
        return {"key": row["__key__"], "pixels": preprocess(image).numpy(),
                "tokens": tokenizer([row["txt"]])[0].numpy()}  # fmt: skip

    rows = (
        ray.data.read_webdataset(tars)
        .map(decode)
        .map_batches(
            Predictor,
            fn_constructor_args=(model,),
            batch_size=batch,
            concurrency=1,
            num_cpus=1,
            num_gpus=int(DEVICE == "cuda"),
        )
        .take_all()
    )
    seconds = max(row["ended"] for row in rows) - min(row["began"] for row in rows)
    return seconds, {row["key"]: (row["image"], row["text"]) for row in rows}


def clip_retrieval(
    command: str, weights: str, tars: list[str], batch: int
) -> tuple[float, Embedded]:
    """Seconds that its own statistics count, loading left out, and its embeddings (float16)."""
    dataset = "{" + ",".join(tars) + "}" if len(tars) > 1 else tars[0]  # a brace pattern
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [command, "inference", "--input_dataset", dataset, "--input_format", "webdataset",
             "--output_folder", folder, "--clip_model", f"open_clip:ViT-B-32/{weights}",
             "--use_jit", "False", "--batch_size", str(batch),
             "--num_prepro_workers", str(min(2, len(tars)))],
            check=True, capture_output=True,
        )  # fmt: skip
        seconds = json.loads(Path(folder, "stats/0.json").read_text())["total_duration"]
        keys = pq.read_table(f"{folder}/metadata/metadata_0.parquet")["image_path"].to_pylist()
        image, text = (
            np.load(f"{folder}/{side}_emb/{side}_emb_0.npy").astype(np.float32)
            for side in ("img", "text")
        )
    return seconds, dict(zip(keys, zip(image, text, strict=True), strict=True))
