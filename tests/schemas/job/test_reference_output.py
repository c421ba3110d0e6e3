"""How a further reference and its cache are named in one line."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rhocache_schemas.job.reference_output import Given, ReferenceOutput

GIVEN = TypeAdapter(Given)
PATTERN = next(each["pattern"] for each in GIVEN.json_schema()["anyOf"] if "pattern" in each)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("text", "reference", "output"),
    [
        ("ViT-B-32,openai=/out", {"model": "ViT-B-32", "pretrained": "openai"}, "/out"),
        (
            "ViT-B-32,openai,bf16=s3://bucket/a=b",
            {"model": "ViT-B-32", "pretrained": "openai", "precision": "bf16"},
            "s3://bucket/a=b",
        ),
        ("local-dir:/m,fp16=out", {"model": "local-dir:/m", "precision": "fp16"}, "out"),
        ("hf-hub:org/repo=out", {"model": "hf-hub:org/repo"}, "out"),
    ],
)
def test_a_line_names_reference_and_output(
    text: str, reference: dict[str, str], output: str
) -> None:
    found = GIVEN.validate_python(text)
    assert re.fullmatch(PATTERN, text)
    assert found == GIVEN.validate_python({"reference": reference, "output": output})
    assert str(found) == text


@given(
    st.sampled_from(["", "local-dir:", "hf-hub:"]),
    TEXTS | st.sampled_from(["fp32", "a,bf16", "{"]),
    st.none() | TEXTS | st.sampled_from(["fp16", "a=b"]),
    st.sampled_from(["fp32", "bf16", "fp16"]),
    TEXTS,
)
def test_any_comes_back_from_its_line(
    scheme: str, model: str, weights: str | None, precision: str, output: str
) -> None:
    asked: dict[str, Any] = {"model": scheme + model, "precision": precision}
    asked["pretrained"] = None if scheme else weights or "tag"
    try:
        made = ReferenceOutput.model_validate({"reference": asked, "output": output})
    except ValidationError:
        return
    line = str(made)
    assert line.splitlines() == [line]
    assert GIVEN.validate_python(line) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ViT-B-32", r"'ViT-B-32' is not of the form MODEL\[,PRETRAINED\]\[,PRECISION\]=OUT"),
        ("=out", "is not of the form"),
        ("ViT-B-32,openai=", "is not of the form"),
        ("ViT-B-32,openai,bf15=out", "is not of the form"),
        ("ViT-B-32=out", "needs pretrained"),
        ('{"reference": 1}', "reference"),
    ],
)
def test_another_line_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GIVEN.validate_python(text)


@given(st.from_regex(PATTERN, fullmatch=True, alphabet=st.characters(exclude_categories=["Cs"])))
def test_what_the_schema_says_of_a_text_is_taken(text: str) -> None:
    assert isinstance(GIVEN.validate_python(text), ReferenceOutput)
