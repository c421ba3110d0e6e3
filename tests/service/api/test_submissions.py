"""``/v1/models`` against open_clip's own list, which the service can't import."""

import json
import subprocess
import sys

from rhocache_service.jobs.references import known_models

# In a process of its own: other tests add architectures to open_clip's in theirs.
CODE = """
import json, open_clip
listed = {
    name: {"dimension": open_clip.get_model_config(name)["embed_dim"], "pretrained": []}
    for name in open_clip.list_models()
}
for name, tag in open_clip.list_pretrained():
    listed[name]["pretrained"].append(tag)
print(json.dumps(listed))
"""


def test_the_list_is_open_clips() -> None:
    told = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    ours, theirs = (
        {name: (model["dimension"], set(model["pretrained"])) for name, model in each.items()}
        for each in (known_models(), json.loads(told.stdout))
    )
    assert ours == theirs
