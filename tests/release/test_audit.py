"""The audit, by pip-audit itself, of a stand-in for OSV that answers as that does."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from release.audit import AuditFailed, ask, judge

from ..service.conftest import free_port
from .conftest import ROOT

PIP_AUDIT = ROOT / ".venv-release" / "bin" / "pip-audit"
pytestmark = pytest.mark.skipif(not PIP_AUDIT.exists(), reason="make .venv-release/.installed")

RAY = {
    "id": "GHSA-6wgj-66m2-xxp2",
    "aliases": ["CVE-2023-48022"],
    "modified": "2024-01-01T00:00:00Z",
    "summary": "Jobs run code",
    "affected": [{"package": {"name": "ray", "ecosystem": "PyPI"}}],
}
WHY = {"id": "CVE-2023-48022", "package": "ray", "why": "nobody reaches it"}


class _OSV(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = [RAY] if asked["package"] == {"name": "ray", "ecosystem": "PyPI"} else []
        answer = json.dumps({"vulns": found} if found else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def answered() -> Iterator[list[dict[str, Any]]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _OSV) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1/query"
        yield ask(str(PIP_AUDIT), url, ["braceexpand==0.1.7", "ray==2.60.0"])
        server.shutdown()


def test_a_finding_is_explained_or_fails(answered: list[dict[str, Any]]) -> None:
    assert judge(answered, [WHY]) == [
        "ray 2.60.0: CVE-2023-48022, GHSA-6wgj-66m2-xxp2, fixed in no version"
    ]
    other = WHY | {"package": "torch"}
    for explained in ([], [other]):
        with pytest.raises(AuditFailed, match=r"does not explain\n  ray 2\.60\.0: CVE-2023-48022"):
            judge(answered, explained)


def test_an_explanation_of_nothing_is_told(answered: list[dict[str, Any]]) -> None:
    old = {"id": "CVE-2020-1", "package": "ray", "why": "old"}
    assert judge(answered, [WHY, old])[1:] == ["CVE-2020-1 of ray: not found any more"]


def test_a_service_that_is_not_reached_is_no_all_clear() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1/query"
    with pytest.raises(AuditFailed, match=r"can't be asked, so nothing is known: .*refused"):
        ask(str(PIP_AUDIT), url, ["ray==2.60.0"])
