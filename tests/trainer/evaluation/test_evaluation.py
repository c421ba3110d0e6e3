"""Recalls against a search by hand, zero-shot accuracy against open_clip's longer way."""

import io
import json
import logging
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from rhocache_schemas.errors import DatasetError, InvalidInput
from rhocache_trainer import evaluate
from rhocache_trainer.model.clip import build_model

from ..conftest import COLOURS, PAIRS, SHARDS, MadePair, make_pairs, write_tar


@pytest.fixture
def model(tmp_path: Path, model_cfg: dict) -> Path:
    torch.manual_seed(3)
    build_model(model_cfg, preprocess={"resize_mode": "squash"}).export(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def repeated(dataset: Path) -> Path:
    """The dataset with captions that repeat: one for each colour of a shard."""
    for shard in range(SHARDS):
        pairs = make_pairs(shard)
        for pair in pairs:
            pair.caption = f"shard {shard} has {pair.caption.rpartition(' ')[2]}"
        write_tar(dataset / f"{shard:05}.tar", pairs)
    return dataset


def by_hand(model: Path, dataset: Path):
    """Features and labels with open_clip, PIL and tarfile alone."""
    logging.getLogger().setLevel(logging.ERROR)
    clip, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model}")
    clip.eval()
    images, captions, colours = [], [], []
    for path in sorted(dataset.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                data = tar.extractfile(member).read()
                if member.name.endswith("jpg"):
                    images.append(transform(Image.open(io.BytesIO(data))))
                elif member.name.endswith("txt"):
                    captions.append(data.decode())
                else:
                    colours.append(json.loads(data)["colour"])
    with torch.no_grad():
        image = clip.encode_image(torch.stack(images), normalize=True)
        texts = sorted(set(captions))
        text = clip.encode_text(tokenizer(texts), normalize=True)
    return clip, tokenizer, image, text, captions, texts, colours


def test_retrieval_equals_a_search_by_hand(model: Path, repeated: Path):
    result = evaluate(str(model), str(repeated))
    _, _, image, text, captions, texts, _ = by_hand(model, repeated)
    assert (result.images, result.captions, result.skipped) == (SHARDS * PAIRS, 8, 0)
    similarity = (image @ text.T).numpy()
    for k in (1, 5, 10):
        image_hits = [
            captions[i] in [texts[j] for j in np.argsort(-similarity[i])[:k]]
            for i in range(len(captions))
        ]
        text_hits = [
            texts[j] in [captions[i] for i in np.argsort(-similarity[:, j])[:k]]
            for j in range(len(texts))
        ]
        assert result.image_to_text[k] == pytest.approx(np.mean(image_hits))
        assert result.text_to_image[k] == pytest.approx(np.mean(text_hits))


def test_zero_shot_equals_open_clips_longer_way(model: Path, dataset: Path):
    result = evaluate(str(model), str(dataset), class_field="colour", templates="simple")
    clip, tokenizer, image, _, _, _, colours = by_hand(model, dataset)
    names = sorted(COLOURS)
    weights = open_clip.build_zero_shot_classifier_legacy(
        clip, tokenizer, names, open_clip.SIMPLE_IMAGENET_TEMPLATES
    )
    guesses = [names[i] for i in (image @ weights).argmax(1).tolist()]
    hits = [guess == colour for guess, colour in zip(guesses, colours, strict=True)]
    by_class = [
        np.mean([hit for hit, colour in zip(hits, colours, strict=True) if colour == name])
        for name in names
    ]
    assert result.zero_shot is not None
    assert result.zero_shot.classes == names
    assert result.zero_shot.accuracy == pytest.approx(np.mean(hits))
    assert result.zero_shot.mean_class_accuracy == pytest.approx(np.mean(by_class))


def test_one_shard_can_be_chosen(model: Path, dataset: Path):
    result = evaluate(f"local-dir:{model}", str(dataset), shards="00001.tar")
    assert result.shards == ["00001.tar"]
    assert result.images == PAIRS
    assert result.zero_shot is None


def test_unreadable_pairs_are_counted(model: Path, dataset: Path):
    bad = MadePair("bad", b"no image", "nothing")
    write_tar(dataset / "00000.tar", [*make_pairs(0), bad])
    result = evaluate(str(model), str(dataset))
    assert (result.images, result.skipped) == (SHARDS * PAIRS, 1)
    write_tar(dataset / "only" / "00000.tar", [bad])
    with pytest.raises(DatasetError, match="no pair that can be evaluated"):
        evaluate(str(model), str(dataset / "only"))


def test_no_model_there(dataset: Path):
    with pytest.raises(InvalidInput, match="nowhere"):
        evaluate("/nowhere", str(dataset))


def test_a_field_that_no_pair_has(model: Path, dataset: Path):
    with pytest.raises(DatasetError, match="JSON must hold a string in the field 'color'"):
        evaluate(str(model), str(dataset), class_field="color")


def test_options_that_do_not_go_together(model: Path, dataset: Path):
    with pytest.raises(InvalidInput, match="which field"):
        evaluate(str(model), str(dataset), linear_probe=True)
    with pytest.raises(InvalidInput, match="not asked for"):
        evaluate(str(model), str(dataset), class_field="colour", probe_shards="*")
    options = {"class_field": "colour", "linear_probe": True}
    with pytest.raises(InvalidInput, match=r"00001\.tar, which it is trained on"):
        evaluate(str(model), str(dataset), probe_shards="00001.tar", **options)
    with pytest.raises(DatasetError, match=r"matches '9\*'"):
        evaluate(str(model), str(dataset), probe_shards="9*", **options)


def test_a_linear_probe_trains_on_the_shards_that_it_is_given(model: Path, dataset: Path):
    options = {"class_field": "colour", "linear_probe": True}
    result = evaluate(
        str(model), str(dataset), shards="00001.tar", probe_shards="00000.tar", **options
    )
    _, _, image, _, _, _, colours = by_hand(model, dataset)
    probe = result.linear_probe
    assert probe is not None
    assert (result.images, probe.images, probe.train_images) == (PAIRS, PAIRS, PAIRS)
    solver = LogisticRegression(C=1 / (PAIRS * probe.strength), tol=1e-9, max_iter=10_000)
    solver.fit(image[:PAIRS].double().numpy(), colours[:PAIRS])
    right = solver.predict(image[PAIRS:].double().numpy()) == np.array(colours[PAIRS:])
    assert probe.accuracy == pytest.approx(right.mean())
    again = evaluate(str(model), str(dataset), **options).linear_probe
    assert again is not None
    assert again.images + again.train_images == SHARDS * PAIRS
    assert evaluate(str(model), str(dataset), **options).linear_probe == again
