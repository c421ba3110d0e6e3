"""Write a reference cache in one process, with nothing but open_clip and the schemas' writer.

A stand-in for ``rhocache score`` that lets the sweep run where Ray does not.
"""

import hashlib
import time

import numpy as np
import open_clip
import torch

from rhocache_schemas import layout, storage
from rhocache_schemas.cache import index, shard_file
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.reference import ReferenceSpec


@torch.no_grad()
def score(dataset: str, shards: str, reference: str, cache: str) -> None:
    """Encode ``shards`` (a glob) with the model in ``reference``; every pair must be readable."""
    name = f"local-dir:{reference}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    weights = hashlib.sha256()
    for key, tensor in model.state_dict().items():
        weights.update(key.encode() + tensor.numpy().tobytes())
    fingerprint = Fingerprint(
        weights_sha256=weights.hexdigest(),
        architecture=open_clip.get_model_config(name) or {},
        preprocessing=dict(model.visual.preprocess_cfg),
        tokenizer={"context_length": tokenizer.context_length},
        precision="fp32",
        dtype="float16",
    )
    entries: list[index.IndexRow] = []
    for shard in list_shards(dataset, shards):
        reader = ShardReader(shard)
        pairs = list(reader)
        images = torch.stack([preprocess(open_image(pair.image or b"")) for pair in pairs])
        image = model.encode_image(images, normalize=True)
        text = model.encode_text(tokenizer([pair.caption or "" for pair in pairs]), normalize=True)
        rows = shard_file.ShardRows(
            keys=[pair.key for pair in pairs],
            status=[shard_file.OK] * len(pairs),
            image=image.numpy().astype(np.float16)[:, None],
            text=text.numpy().astype(np.float16)[:, None],
            similarity=(image * text).sum(1).numpy(),
            image_hash=[hash_image(pair.image or b"") for pair in pairs],
            caption_hash=[hash_caption(pair.caption or "") for pair in pairs],
        )
        source_sha256 = reader.sha256 or ""
        data = shard_file.encode(rows, fingerprint.digest, source_sha256)
        storage.write_atomic(layout.shard_file(cache, shard.name), data)
        entries.append(
            index.IndexRow(
                name=shard.name,
                rows=len(pairs),
                ok=len(pairs),
                failed=0,
                bytes=len(data),
                source_size=shard.size,
                source_mtime_ns=shard.mtime_ns,
                source_sha256=source_sha256,
                content_sha256=rows.content_sha256(),
                file_sha256=hashlib.sha256(data).hexdigest(),
            )
        )
    data = index.encode(entries)
    storage.write_atomic(layout.index_file(cache), data)
    total = sum(entry.rows for entry in entries)
    manifest = Manifest(
        fingerprint=fingerprint,
        fingerprint_sha256=fingerprint.digest,
        reference=ReferenceSpec(model=name),
        dataset=dataset,
        rows=total,
        ok=total,
        failed=0,
        failed_by_code={},
        shards=len(entries),
        failed_shards={},
        dimension=image.shape[1],
        logit_scale=float(model.logit_scale.exp()),
        index_sha256=hashlib.sha256(data).hexdigest(),
        batch_size=512,
        software={},
        created_at=time.time(),
    )
    storage.write_atomic(layout.manifest_file(cache), manifest.to_json())
