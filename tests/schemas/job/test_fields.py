"""What commands and forms ask for, as a spec's model says it."""

from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from specs import LETTERS

from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.fields import fields_of, nest, read_notes, write_note
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import Ask


class Inner(BaseModel):
    share: Annotated[float, Field(ge=0, le=1)] = 0.5


class Model(BaseModel):
    format_version: str = "1.0"
    kind: Literal["model"] = "model"
    place: Annotated[str, Field(description="Where."), Ask(argument=True)]
    many_words: Annotated[int | None, Field(ge=3, title="Words")] = None
    inner: Inner = Inner()
    size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    colour: Annotated[Literal["red", "blue"], Ask(option="hue")] = "red"
    quick: bool = False
    notes: dict[str, str] = {}
    shares: Annotated[list[Inner], Ask(metavar="SHARE")] = []
    name: str


def test_every_field_is_asked_for_and_the_required_ones_first() -> None:
    found = fields_of(Model)
    assert [field.option for field in found] == [
        "place", "name", "many-words", "share", "size", "hue", "quick", "notes", "shares",
    ]  # fmt: skip
    place, name, words, share, size, colour, quick, notes, shares = found
    assert (place.argument, place.required, place.description) == (True, True, "Where.")
    assert (name.argument, name.required, name.form) == (False, True, "text")
    assert (words.title, words.form, words.minimum, words.maximum) == ("Words", "integer", 3, None)
    assert (share.path, share.pointer, share.default) == (("inner", "share"), "/inner/share", 0.5)
    assert (share.form, share.minimum, share.maximum) == ("number", 0, 1)
    assert (size.form, size.metavar, size.choices) == ("text", "auto|N", ())
    assert (colour.form, colour.metavar, colour.choices) == (
        "choice", "red|blue", ("red", "blue"),
    )  # fmt: skip
    assert (quick.form, notes.form, notes.metavar) == ("flag", "notes", "KEY=VALUE")
    assert (shares.form, shares.metavar, shares.write([1, "a"])) == ("lines", "SHARE", ["1", "a"])


def test_values_are_taken_from_a_spec_and_put_back() -> None:
    spec = Model(
        place="p", name="n", inner=Inner(share=0.1), size=7, notes={"a": "b"}, shares=[Inner()]
    )
    values = {field.path: field.get(spec) for field in fields_of(Model)}
    assert values["inner", "share"] == 0.1
    assert Model.model_validate(nest(values)) == spec


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (set[int], set()),
        (int | str, 1),
        (bool, True),
        (bool, ...),
        (int | None, 3),
        (int | None, ...),
        (bytes, b""),
    ],
)
def test_what_no_option_can_say_is_refused(annotation: Any, default: Any) -> None:
    odd = type("Odd", (BaseModel,), {"__annotations__": {"x": annotation}} | (
        {} if default is ... else {"x": default}
    ))  # fmt: skip
    with pytest.raises(TypeError, match=r"Odd\.x: no option can be made"):
        fields_of(odd)


def test_no_two_options_of_a_kind_have_one_name() -> None:
    options = [field.option for field in fields_of(ScoreSpec)]
    assert len(options) == len(set(options))


@given(st.dictionaries(st.text(LETTERS), st.text(LETTERS)))
def test_notes_are_read_as_they_were_written(notes: dict[str, str]) -> None:
    lines = [write_note(*note) for note in notes.items()]
    assert read_notes(lines) == notes
    assert not any("\n" in line or "\r" in line for line in lines)


@pytest.mark.parametrize("given", ["plain", '{"a": ', "{x=1"])
def test_a_note_without_a_value_is_refused(given: str) -> None:
    with pytest.raises(InvalidInput, match="KEY=VALUE"):
        read_notes([given])
