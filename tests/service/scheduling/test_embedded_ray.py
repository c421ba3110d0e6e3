"""What an ended Ray leaves behind is removed."""

import json
import subprocess
import sys
from pathlib import Path

from rhocache_service.scheduling.embedded_ray import EmbeddedRay

WRITER = """\
import itertools, pathlib, sys, time
for number in itertools.count():
    try:
        (pathlib.Path(sys.argv[1]) / f"late-{number}").touch()
    except FileNotFoundError:
        break
    print(flush=True)
    time.sleep(0.01)
"""


def test_a_folder_that_is_still_written_into_is_removed(tmp_path: Path) -> None:
    temporary = tmp_path / "rho-folder"
    logs = temporary / "r" / "logs"
    logs.mkdir(parents=True)
    for number in range(5000):  # so that they take longer than the pause between two late ones
        (logs / str(number)).touch()
    record = tmp_path / "ray.json"
    record.write_text(json.dumps({"temporary": str(temporary)}))
    ray = EmbeddedRay(tmp_path)
    command = [sys.executable, "-c", WRITER, logs]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()  # it writes
        ray.stop()
        assert not temporary.exists()
    assert writer.returncode == 0
    assert not record.exists()
