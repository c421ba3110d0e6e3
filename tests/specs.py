"""Any valid submission of a kind, made from nothing but the fields of its pydantic model."""

import string
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import quote

from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from rhocache_schemas.api import SUBMISSIONS, Submission
from rhocache_schemas.job.spec import LOCATION
from rhocache_schemas.models import known_tags
from rhocache_schemas.reference import ReferenceSpec

# No argument of a command can have a NUL in it, and no JSON half a surrogate pair.
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")

WEBHOOK = "https://hooks.example.org/"  # which tests' services allow


def submissions(kind: str, root: str, letters: Any = LETTERS) -> st.SearchStrategy[Submission]:
    """Submissions whose places lie under ``root``, and whose texts are of these letters."""
    model = SUBMISSIONS[kind]
    fields = {
        name: _values(info.annotation, info.metadata, root, letters)
        for name, info in model.model_fields.items()
        if name not in ("format_version", "kind")
    }
    fields["webhook"] = st.none() | st.text(letters).map(lambda text: WEBHOOK + quote(text))
    made = st.fixed_dictionaries(fields)
    return made.filter(lambda each: _is_valid(model, each)).map(model.model_validate)


def _is_valid(model: type[Submission], fields: dict[str, Any]) -> bool:
    """Whether fields go together that are valid each by itself."""
    try:
        model.model_validate(fields)
    except ValidationError:
        return False
    return True


def _values(annotation: Any, metadata: list[Any], root: str, letters: Any) -> Any:  # noqa: C901
    if annotation is ReferenceSpec:
        return _references(root, letters)
    if LOCATION in metadata:
        return st.text(letters, min_size=1, max_size=40).map(lambda text: f"{root}/{text}")
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        infos = [each for each in more if isinstance(each, FieldInfo)]
        more += [each for info in infos for each in info.metadata]
        return _values(inner, [*metadata, *more], root, letters)
    if get_origin(annotation) in (Union, UnionType):
        return st.one_of(*(_values(each, metadata, root, letters) for each in get_args(annotation)))
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))

    def bound(name: str) -> Any:
        return next((getattr(each, name) for each in metadata if hasattr(each, name)), None)

    if annotation is int:
        below = bound("lt")
        return st.integers(bound("ge"), bound("le") if below is None else below - 1)
    if annotation is float:
        return st.floats(bound("ge"), bound("le"), allow_nan=False, allow_infinity=False)
    if annotation is str and bound("pattern"):
        return st.from_regex(bound("pattern"), fullmatch=True, alphabet=string.ascii_letters + "_")
    if annotation is str:
        return st.text(letters, min_size=bound("min_length") or 0, max_size=64)
    if get_origin(annotation) is tuple:  # a range, or of channels
        each = [st.floats(0.001, 1)] * len(get_args(annotation))
        return st.tuples(*each).map(lambda ends: tuple(sorted(ends)))
    if get_origin(annotation) is list:
        each = _values(get_args(annotation)[0], [], root, letters)
        return st.lists(each, max_size=3)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        names = annotation.model_fields.items()
        return st.fixed_dictionaries(
            {name: _values(info.annotation, info.metadata, root, letters) for name, info in names}
        )
    if get_origin(annotation) is dict:
        text = st.text(letters, max_size=64)
        return st.dictionaries(text, text, max_size=4)
    return {bool: st.booleans(), NoneType: st.none()}[annotation]


def _references(root: str, letters: Any) -> Any:
    text = st.text(letters, min_size=1, max_size=20)
    precision = st.sampled_from(["fp32", "bf16", "fp16"])
    brings = text.map(lambda name: f"local-dir:{root}/{name}") | text.map("hf-hub:{}".format)
    models = known_tags()
    tagged = st.sampled_from([(name, tag) for name, tags in models.items() for tag in tags])
    of_file = st.tuples(st.sampled_from(list(models)), text.map(lambda name: f"{root}/{name}"))
    named = (tagged | of_file).map(
        lambda both: dict(zip(("model", "pretrained"), both, strict=True))
    )
    return st.fixed_dictionaries({"model": brings, "precision": precision}) | (
        st.builds(lambda names, how: {**names, "precision": how}, named, precision)
    )
