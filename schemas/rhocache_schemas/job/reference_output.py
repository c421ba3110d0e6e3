"""A further reference of a scoring job, with the cache that it fills."""

from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field, WithJsonSchema

from rhocache_schemas.documents import Strict
from rhocache_schemas.job.spec import Location
from rhocache_schemas.reference import HF_HUB, LOCAL_DIR, Precision, ReferenceSpec

_FORM = "MODEL[,PRETRAINED][,PRECISION]=OUT"


class ReferenceOutput(Strict):
    """A further reference, and where its cache is."""

    reference: ReferenceSpec
    output: Annotated[Location, Field(description="Folder of the cache: a path or a URI.")]

    def __str__(self) -> str:
        """Spell it in one line, as ``read_reference_output`` reads it."""
        asked = self.reference
        precision = None if asked.precision == "fp32" else asked.precision
        text = ",".join(filter(None, [asked.model, asked.pretrained, precision]))
        text = f"{text}={self.output}"
        plain = text.isprintable() and not text.startswith("{") and self._is_said_by(text)
        return text if plain else self.model_dump_json(exclude_defaults=True, ensure_ascii=True)

    def _is_said_by(self, text: str) -> bool:
        try:
            return _split(text) == self.model_dump(exclude_defaults=True)
        except ValueError:
            return False


def read_reference_output(given: Any) -> Any:
    """Return the fields that a text names, which may be a JSON object; anything else as it is.

    Raises ValueError.
    """
    if not isinstance(given, str):
        return given
    if given.startswith("{"):
        return ReferenceOutput.model_validate_json(given)
    return _split(given)


def _split(text: str) -> dict[str, Any]:
    named, equals, output = text.partition("=")
    model, *rest = named.split(",")
    reference = {"model": model}
    if rest and rest[-1] in get_args(Precision):
        reference["precision"] = rest.pop()
    if not (model and equals and output) or len(rest) > 1:
        raise ValueError(f"{text!r} is not of the form {_FORM}")
    if rest:
        reference["pretrained"] = rest[0]
    return {"reference": reference, "output": output}


_PRECISION = "|".join(get_args(Precision))
_BRINGS_WEIGHTS = f"{LOCAL_DIR}|{HF_HUB}"
_Text = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": rf"^(({_BRINGS_WEIGHTS})[^,=]+|(?!{_BRINGS_WEIGHTS}|\{{)[^,=]+,"
            rf"(?!({_PRECISION})=)[^,=]+)(,({_PRECISION}))?=.+$",
        }
    ),
]
# As REST, options and forms take it.
Given = Annotated[
    ReferenceOutput,
    BeforeValidator(read_reference_output, json_schema_input_type=ReferenceOutput | _Text),
]
