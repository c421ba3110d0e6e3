"""Models of every family that open_clip lists, against open_clip's own embeddings."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import pytest
import torch
from open_clip import CustomTextCLIP
from safetensors.torch import save_file

from rhocache_schemas.errors import MissingExtra, ReferenceUnavailable
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.encode.batches import Towers
from rhocache_workers.plan.flops import Outline
from rhocache_workers.reference import model as reference_module
from rhocache_workers.reference.model import load_reference

from ...conftest import TINY

TABLE = Path(__file__).parents[3] / "docs" / "architectures.md"
CAPTIONS = ["a cat", "", "a photo of two cats on the mat by the door", "word " * 200]


class Family(NamedTuple):
    smallest: str  # which is measured
    members: str  # regular expression; the first family that matches an architecture is its own
    image: str
    text: str


FAMILIES = [
    Family("coca_roberta-ViT-B-32", "coca_roberta.*", "ViT", "RoBERTa (CoCa)"),
    Family("coca_ViT-B-32", "coca_.*", "ViT", "CoCa"),
    Family("xlm-roberta-base-ViT-B-32", "xlm-roberta.*", "ViT", "XLM-RoBERTa"),
    Family("roberta-ViT-B-32", "roberta.*", "ViT", "RoBERTa"),
    Family("mt5-base-ViT-B-32", "mt5.*", "ViT", "mT5"),
    Family("nllb-clip-base-siglip", "nllb-clip.*-siglip", "SigLIP ViT (timm)", "NLLB (M2M100)"),
    Family("nllb-clip-base", "nllb-clip.*", "ViT", "NLLB (M2M100)"),
    Family("ViT-B-32-SigLIP2-256", ".*-SigLIP2.*", "SigLIP ViT (timm)", "SigLIP 2"),
    Family("ViT-B-16-SigLIP-i18n-256", ".*-SigLIP-i18n.*", "SigLIP ViT (timm)", "SigLIP, mC4"),
    Family("ViT-B-16-SigLIP", ".*-SigLIP.*", "SigLIP ViT (timm)", "SigLIP"),
    Family("ViT-L-14-CLIPA", ".*-CLIPA.*", "ViT, pooled by a mean", "CLIPA, not causal"),
    Family("ViT-L-14-worldwide", ".*-worldwide.*", "ViT", "causal, multilingual (MetaCLIP 2)"),
    Family("ViTamin-S", "ViTamin.*", "ViTamin (timm)", "causal"),
    Family("ViT-S-32-alt", "ViT-.*", "ViT", "causal"),
    Family("RN50", "RN.*", "ModifiedResNet", "causal"),
    Family("convnext_tiny", "convnext.*", "ConvNeXt (timm)", "causal"),
    Family("swin_base_patch4_window7_224", "swin.*", "Swin (timm)", "causal"),
    Family("vit_relpos_medium_patch16_cls_224", "vit_relpos.*", "ViT, relative (timm)", "causal"),
    Family("vit_medium_patch16_gap_256", "vit_medium.*", "ViT, averaged (timm)", "causal"),
    Family("EVA02-B-16", "EVA.*", "EVA (timm)", "causal"),
    Family("MobileCLIP-B", "MobileCLIP2?-B", "ViT with a stem (timm)", "causal"),
    Family("MobileCLIP2-L-14", "MobileCLIP2-L-14", "ViT (timm)", "not causal"),
    Family("MobileCLIP2-S0", "MobileCLIP.*", "FastViT (timm)", "not causal"),
    Family("PE-Core-T-16-384", "PE-Core.*", "PE ViT (timm)", "causal"),
]  # fmt: skip


def family(name: str) -> Family:
    return next(each for each in FAMILIES if re.fullmatch(each.members, name))


def rows(text: str) -> dict[str, list[str]]:
    """The cells of the table's rows, by the name of the architecture that was measured."""
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row for row in cells}


@pytest.mark.by_hand
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("measured", FAMILIES, ids=lambda each: each.smallest)
def test_random_weights_at_the_smallest_size(measured: Family, tmp_path: Path) -> None:
    """Writes the row of docs/architectures.md anew. Takes up to 6 GB and some minutes each."""
    from hub import make_hub

    make_hub(tmp_path)
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("architecture.py"), measured.smallest],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    write_row(measured, told)
    assert max(told["image_difference"], told["text_difference"]) <= 1e-5


def write_row(measured: Family, told: dict[str, Any]) -> None:
    others = [
        name
        for name in open_clip.list_models()
        if family(name) == measured and name != measured.smallest
    ]
    row = (
        f"| `{measured.smallest}` | {measured.image} | {measured.text} | {told['context']} "
        f"| {'trimmed' if told['trims'] else 'whole'} | {'packed' if told['cuts'] else 'whole'} "
        f"| {told['image_difference']:.0e} | {told['text_difference']:.0e} "
        f"| {', '.join(f'`{name}`' for name in others) or '-'} |"
    )
    text = TABLE.read_text()
    start = f"| `{measured.smallest}` |"
    kept = [line for line in text.splitlines() if not line.startswith(start)]
    end = next(number for number, line in enumerate(kept) if line.startswith("| measured |"))
    while kept[end].startswith("|"):
        end += 1
    TABLE.write_text("\n".join([*kept[:end], row, *kept[end:]]) + "\n")


def test_the_table_has_every_architecture_and_the_bound_was_kept() -> None:
    table = rows(TABLE.read_text())
    assert set(table) == {each.smallest for each in FAMILIES}
    for row in table.values():
        assert max(float(row[6]), float(row[7])) <= 1e-5, row
    listed = set(re.findall(r"`([^`]+)`", TABLE.read_text()))
    builtin = {path.stem for path in (Path(open_clip.__file__).parent / "model_configs").glob("*")}
    assert builtin <= listed


def hf_reference(folder: Path, kind: str) -> None:
    """A ``local-dir`` whose text tower is a small one of transformers'."""
    from hub import make_tokenizer, tiny_towers

    config, specials = tiny_towers()[kind]
    config.save_pretrained(folder / "tower")
    make_tokenizer(folder, specials)
    text = {
        "hf_model_name": str(folder / "tower"),
        "hf_tokenizer_name": "given by the folder",
        "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler",
    }
    model_cfg = {"embed_dim": 32, "vision_cfg": TINY["vision_cfg"], "text_cfg": text}
    torch.manual_seed(0)
    unloaded = {**text, "hf_model_pretrained": False}
    model = CustomTextCLIP(32, dict(TINY["vision_cfg"]), unloaded)  # pyright: ignore
    save_file(
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "bert", "mt5", "m2m_100"])
def test_towers_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hf_reference(tmp_path, kind)
    name = f"local-dir:{tmp_path}"
    reference = load_reference(ReferenceSpec(model=name))
    tokens = reference.tokenizer(CAPTIONS)
    assert reference.context_length == tokens.shape[1] == 77  # the tower's own: 90, or none
    assert not reference.text_tower.cuts
    own = open_clip.create_model_from_pretrained(name)[0].eval()
    with torch.no_grad():
        expected = own.encode_text(open_clip.get_tokenizer(name)(CAPTIONS), normalize=True)
    found = Towers(reference, 16).texts(tokens)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    outline = Outline(name)
    assert outline.context_length == 77
    assert outline.text_lengths(CAPTIONS) == [77] * 4
    matrices = {"mt5": 4 * 32**2 + 3 * 32 * 64}.get(kind, 4 * 32**2 + 2 * 32 * 64)
    attention = 2 * 77 * 32
    per_position = 2 * 2 * (matrices + attention)  # two layers, two operations a product
    projection = 2 * 32 * 32
    assert outline.text_flops(77) == 77 * per_position + projection


def test_a_precision_that_open_clip_cannot_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hf_reference(tmp_path, "roberta")
    with pytest.raises(ReferenceUnavailable, match="does not run in bf16 on cpu: ") as caught:
        load_reference(ReferenceSpec(model=f"local-dir:{tmp_path}", precision="bf16"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "mt5-base-ViT-B-32"])
def test_without_transformers_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(reference_module, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"transformers.*pip install 'rhocache\[hf\]'"):
        Outline(name)
    Outline("ViT-S-32-alt")
