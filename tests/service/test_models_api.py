"""``/v1/models`` against open_clip's own list, which the service can't import."""

import json
from importlib.resources import files

import open_clip


def test_the_list_is_open_clips() -> None:
    listed = json.loads(files("rhocache_service").joinpath("models.json").read_bytes())
    # What downloads from a hub by itself is named by hf-hub: and is left out of both.
    assert set(listed) == set(open_clip.list_models())
    pretrained = {name: set[str]() for name in listed}
    for name, tag in open_clip.list_pretrained():
        pretrained[name].add(tag)
    assert {name: set(tags) for name, tags in listed.items()} == pretrained
