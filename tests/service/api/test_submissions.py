"""``/v1/models`` against open_clip's own list, which the service can't import."""

import json
import subprocess
import sys
from importlib.resources import files

# In a process of its own: other tests add architectures to open_clip's in theirs.
CODE = """
import json, open_clip
listed = {name: [] for name in open_clip.list_models()}
for name, tag in open_clip.list_pretrained():
    listed[name].append(tag)
print(json.dumps(listed))
"""


def test_the_list_is_open_clips() -> None:
    told = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    listed = json.loads(files("rhocache_service.api").joinpath("models.json").read_bytes())
    ours, theirs = (
        {name: set(tags) for name, tags in each.items()}
        for each in (listed, json.loads(told.stdout))
    )
    assert ours == theirs
