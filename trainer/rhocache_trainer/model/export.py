"""Writing a model as open_clip reads it: ``local-dir:PATH``."""

import json
from pathlib import Path

from open_clip.tokenizer import HFTokenizer
from safetensors import torch as safetensors

from rhocache_schemas import storage
from rhocache_schemas.weights.file import CONFIG, WEIGHTS
from rhocache_trainer.model.clip import ClipModel


def export(model: ClipModel, folder: Path) -> None:
    """Write ``open_clip_config.json`` and ``open_clip_model.safetensors`` into ``folder``.

    ``open_clip.create_model_and_transforms(f"local-dir:{folder}")`` gives the model back with its
    preprocessing, and ``open_clip.get_tokenizer`` its tokenizer with the context length.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.module.state_dict().items()
    }
    config = {"model_cfg": model.model_cfg, "preprocess_cfg": model.preprocess_cfg}
    storage.write_atomic(str(folder / WEIGHTS), safetensors.save(weights))
    storage.write_atomic(str(folder / CONFIG), json.dumps(config, indent=2).encode() + b"\n")
    if isinstance(model.tokenizer, HFTokenizer):
        model.tokenizer.save_pretrained(str(folder))
