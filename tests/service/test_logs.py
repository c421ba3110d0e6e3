"""Logs: what requests and datasets say is shown on a terminal, not obeyed by it."""

import json
import os
import pty
import subprocess
import sys

CODE = r"""
import logging
from rhocache_service import logs
from rhocache_service.http.middleware import access_log
logs.configure()
said = "x\x1b[2J\x9b\u202e\ny"
logging.getLogger("other").warning("job: %s", said)
access_log.log.info("request", path=said, status=200)
try:
    raise ValueError(said)
except ValueError:
    logging.getLogger("other").exception("it failed")
"""


def test_on_a_terminal() -> None:
    terminal, inside = pty.openpty()
    subprocess.run([sys.executable, "-c", CODE], stderr=inside, check=True)
    os.close(inside)
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # the terminal's end
        pass
    text = shown.decode()
    assert text.count(r"x\x1b[2J\x9b\u202e\ny") == 2
    assert r"ValueError: x\x1b[2J\x9b\u202e" in text
    assert "\x1b[2J" not in text
    assert not {"\x9b", "\u202e"} & set(text)
    assert "Traceback" in text


def test_in_a_file() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], stderr=subprocess.PIPE, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["level"] for line in lines] == ["warning", "info", "error"]
    assert "\x1b" not in done.stderr
