import argparse
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.numpy import load_file

from rhocache_schemas.errors import InvalidInput, ReferenceUnavailable, RhocacheError
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.reference.model import Reference, load_reference


def local(folder: Path, **settings) -> ReferenceSpec:
    return ReferenceSpec(model=f"local-dir:{folder}", **settings)


@pytest.fixture
def reference(reference_folder: Path) -> Reference:
    return load_reference(local(reference_folder))


@pytest.fixture
def copy(tmp_path: Path, reference_folder: Path) -> Path:
    return Path(shutil.copytree(reference_folder, tmp_path / "copy"))


def test_the_weights_hash_is_that_of_the_exported_tensors(
    reference: Reference, reference_folder: Path
) -> None:
    tensors = load_file(reference_folder / "open_clip_model.safetensors")
    digest = hashlib.sha256()
    for name, array in sorted(tensors.items()):
        digest.update(f"{name}\0torch.float32\0{list(array.shape)}\0".encode() + array.tobytes())
    assert reference.fingerprint("float16", None).weights_sha256 == digest.hexdigest()


def test_a_copy_elsewhere_is_the_same_reference(reference: Reference, copy: Path) -> None:
    again = load_reference(local(copy))
    assert again.fingerprint("float16", None) == reference.fingerprint("float16", None)


def test_other_weights_preprocessing_and_context_change_the_fingerprint(
    reference: Reference, make_reference: Callable[[int], Path], copy: Path
) -> None:
    before = reference.fingerprint("float16", None)
    other = load_reference(local(make_reference(1))).fingerprint("float16", None)
    assert other == before.model_copy(update={"weights_sha256": other.weights_sha256})
    assert other.weights_sha256 != before.weights_sha256

    path = copy / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["preprocess_cfg"] = {"resize_mode": "squash"}
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"clean": "whitespace"}
    path.write_text(json.dumps(config))
    changed = load_reference(local(copy)).fingerprint("float16", None)
    assert changed.weights_sha256 == before.weights_sha256
    assert changed.preprocessing != before.preprocessing
    assert changed.tokenizer != before.tokenizer


def test_it_is_frozen(reference: Reference) -> None:
    assert not reference.model.training
    assert not any(parameter.requires_grad for parameter in reference.model.parameters())


def test_the_logit_scale_is_the_inverse_temperature(reference: Reference) -> None:
    assert reference.logit_scale == pytest.approx(1 / 0.07)
    assert reference.logit_bias is None


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_still_gives_unit_vectors(
    reference: Reference, reference_folder: Path, precision: str
) -> None:
    half = load_reference(local(reference_folder, precision=precision))
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=random)
    tokens = reference.tokenizer(["a cat", "a dog", "two birds on a tree"])
    for exact, rounded in (
        (reference.encode_images(pixels), half.encode_images(pixels)),
        (reference.encode_texts(tokens), half.encode_texts(tokens)),
    ):
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded.norm(dim=1), torch.ones(3), atol=1e-6, rtol=0)
        torch.testing.assert_close(rounded, exact, atol=0.02, rtol=0)
        assert not torch.equal(rounded, exact)


def test_an_architecture_with_a_checkpoint(
    tmp_path: Path, reference: Reference, reference_folder: Path
) -> None:
    config = json.loads((reference_folder / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "Tiny-8.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "Tiny-8.json")
    checkpoint = tmp_path / "tiny.pt"
    torch.save(reference.model.state_dict(), checkpoint)
    named = load_reference(ReferenceSpec(model="Tiny/8", pretrained=str(checkpoint)))
    assert named.fingerprint("float16", None) == reference.fingerprint("float16", None)


def test_a_trainings_checkpoint_is_the_same_reference(reference: Reference, copy: Path) -> None:
    remove_weights(copy)
    state = {
        f"module._orig_mod.{name}": each for name, each in reference.model.state_dict().items()
    }
    best = {"accuracy": np.float64(0.5), "args": argparse.Namespace(lr=0.1)}
    torch.save({"model": state, **best}, copy / "open_clip_pytorch_model.bin")
    again = load_reference(local(copy))
    assert again.fingerprint("float16", None) == reference.fingerprint("float16", None)


def test_weights_called_like_ones_of_quick_gelu_are_warned_of(
    reference: Reference, copy: Path
) -> None:
    assert reference.warning is None
    named = copy.rename(copy.with_name("vit_base_patch32_clip_224.openai"))
    assert "QuickGELU" in str(load_reference(local(named)).warning)


@pytest.mark.parametrize(
    ("model", "pretrained", "error", "message"),
    [
        ("VitB32", "openai", InvalidInput, "did you mean.*ViT-B-32"),
        ("ViT-B-32", "laion3b", InvalidInput, "laion3b.*pretrained tags: .*laion2b_s34b_b79k"),
        ("ViT-B-32", "no/such/file.pt", InvalidInput, "no/such/file.pt"),
        ("ViT-B-32", "openai", ReferenceUnavailable, "ViT-B-32-quickgelu"),
        ("local-dir:/no/such", None, ReferenceUnavailable, "no folder /no/such"),
    ],
)
def test_a_name_that_leads_nowhere(
    model: str, pretrained: str | None, error: type[RhocacheError], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_reference(ReferenceSpec(model=model, pretrained=pretrained))


def damage_config(folder: Path) -> None:
    (folder / "open_clip_config.json").write_text("{}")


def remove_config(folder: Path) -> None:
    (folder / "open_clip_config.json").unlink()


def remove_weights(folder: Path) -> None:
    (folder / "open_clip_model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    path = folder / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])


def put_other_weights(folder: Path) -> None:
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 16
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def ask_for_code(folder: Path) -> None:
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_config, "model_cfg"),
        (remove_config, "open_clip_config.json"),
        (remove_weights, "no weights"),
        (cut_weights, "cannot load"),
        (put_other_weights, "size mismatch"),
        (ask_for_code, "asks for trust_remote_code"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(
    copy: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(copy)
    with pytest.raises(ReferenceUnavailable, match=message) as caught:
        load_reference(local(copy))
    assert "\n" not in str(caught.value)


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_never_runs_code(tmp_path: Path, copy: Path) -> None:
    remove_weights(copy)
    mark = tmp_path / "mark"
    with (copy / "open_clip_pytorch_model.bin").open("wb") as file:
        pickle.dump({"state_dict": Bomb(mark)}, file)
    with pytest.raises(ReferenceUnavailable, match="cannot load"):
        load_reference(local(copy))
    assert not mark.exists()
