"""Folders like those that a hub has for text towers and tokenizers of transformers, made offline.

Where one is in the working folder, open_clip and transformers take it for the hub's of that name.
"""

from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    M2M100Config,
    MT5Config,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

WORDS = ["a", "photo", "of", "two", "cats", "on", "the", "mat", "by", "door", "word"]


class Specials(NamedTuple):
    """The numbers of a tokenizer's special tokens."""

    start: int | None
    end: int
    padding: int
    unknown: int


# By the families of tokenizers that open_clip's architectures name.
ROBERTA = Specials(0, 2, 1, 3)
T5 = Specials(None, 1, 0, 2)
BERT = Specials(101, 102, 0, 100)


def make_tokenizer(folder: Path, specials: Specials) -> None:
    """A tokenizer of a few words, with the special tokens where the real one has them."""
    names = {"<s>": specials.start, "</s>": specials.end, "<pad>": specials.padding}
    vocabulary = {name: number for name, number in names.items() if number is not None}
    vocabulary["<unk>"] = specials.unknown
    start = max(vocabulary.values()) + 1
    vocabulary |= {word: start + place for place, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore
    ends = [("</s>", specials.end)]
    if specials.start is not None:
        ends.append(("<s>", specials.start))
    made.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single="$A </s>" if specials.start is None else "<s> $A </s>", special_tokens=ends
    )
    special: dict[str, Any] = {"eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", **special)
    tokenizer.save_pretrained(str(folder))


def make_hub(folder: Path) -> None:
    """Everything that open_clip's architectures name, at the real sizes."""
    roberta = {"max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
    towers: dict[str, Any] = {
        "roberta-base": RobertaConfig(vocab_size=50265, **roberta),
        "xlm-roberta-base": XLMRobertaConfig(vocab_size=250002, **roberta),
        "google/mt5-base": MT5Config(
            vocab_size=250112, d_model=768, d_ff=2048, num_layers=12, num_heads=12
        ),
        "facebook/nllb-200-distilled-600M": M2M100Config(
            vocab_size=256206, encoder_layers=12, decoder_layers=12, scale_embedding=True
        ),
    }
    tokenizers = {
        "roberta-base": ROBERTA,
        "xlm-roberta-base": ROBERTA,
        "facebook/xlm-v-base": ROBERTA,
        "facebook/nllb-200-distilled-600M": ROBERTA,
        "google/mt5-base": T5,
        "bert-base-uncased": BERT,
        "timm/ViT-B-16-SigLIP": T5,
        "timm/ViT-B-16-SigLIP-i18n-256": T5,
        "timm/ViT-B-32-SigLIP2-256": T5,
    }
    for name, config in towers.items():
        config.save_pretrained(folder / name)
    for name, specials in tokenizers.items():
        make_tokenizer(folder / name, specials)


def tiny_towers() -> dict[str, tuple[Any, Specials]]:
    """A small tower of each kind that open_clip takes from transformers."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2}
    bert = {**sizes, "vocab_size": 200, "intermediate_size": 64}
    return {
        "roberta": (RobertaConfig(**bert, pad_token_id=1, max_position_embeddings=90), ROBERTA),
        "xlm-roberta": (
            XLMRobertaConfig(**bert, pad_token_id=1, max_position_embeddings=90),
            ROBERTA,
        ),
        "bert": (BertConfig(**bert, max_position_embeddings=90), BERT),
        "mt5": (
            MT5Config(vocab_size=200, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2),
            T5,
        ),
        "m2m_100": (
            M2M100Config(
                vocab_size=200,
                d_model=32,
                encoder_layers=2,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                max_position_embeddings=90,
            ),
            ROBERTA,
        ),
    }
