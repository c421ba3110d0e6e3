"""Which server S3 requests go to, seen by servers that note them."""

import os
import shlex
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rhocache_schemas import storage
from rhocache_schemas.errors import InvalidInput, StorageError

CONFIG = """
[default]
region = eu-default
[profile plain]
endpoint_url = {first}
region = eu-plain
[profile 'two words']
services = other
endpoint_url = {first}
aws_access_key_id = IN-CONFIG
aws_secret_access_key = secret
[services other]
dynamodb =
  endpoint_url = {first}
s3 =
  endpoint_url = {second}
[profile ignoring]
endpoint_url = {first}
ignore_configured_endpoint_urls = TRUE
[profile hosts]
endpoint_url = {local}
s3 =
  addressing_style = virtual
"""
CREDENTIALS = """
[plain]
aws_access_key_id = PLAIN
aws_secret_access_key = secret
aws_session_token = session
[keys-only]
aws_access_key_id = ONLY
aws_secret_access_key = secret
"""


class Store:
    """An empty S3 server."""

    def __init__(self, host: str = "127.0.0.1", tls: Path | None = None) -> None:
        requests = self.requests = list[tuple[str, str]]()  # host and path
        signers = self.signers = list[str]()  # key/date/region

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                requests.append((self.headers["Host"], self.path))
                signature = self.headers.get("Authorization", "")
                signers.append(signature.partition("Credential=")[2].partition("/s3/")[0])
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_HEAD  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        self.server = Server((host, 0), Handler)
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'http' if tls is None else 'https'}://{shown}:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[Store, Store]]:
    both = Store(), Store()
    yield both
    for store in both:
        store.stop()


@pytest.fixture
def first(stores: tuple[Store, Store]) -> Store:
    stores[0].requests.clear()
    stores[0].signers.clear()
    return stores[0]


@pytest.fixture
def second(stores: tuple[Store, Store]) -> Store:
    stores[1].requests.clear()
    stores[1].signers.clear()
    return stores[1]


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: Store, second: Store):
    """Nothing set but where the shared files are; gives what sets variables, ``{first}`` filled."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    places = {"first": first.url, "second": second.url, "local": f"http://localhost:{first.port}"}
    for name, text in (("CONFIG", CONFIG), ("SHARED_CREDENTIALS", CREDENTIALS)):
        (tmp_path / name).write_text(text.format(**places))
        monkeypatch.setenv(f"AWS_{name}_FILE", str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(storage, "_ATTEMPTS", 1)

    def set_all(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"AWS_{name}", value.format(**places))

    return set_all


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        ({"ENDPOINT_URL": "{first}"}, "first"),
        ({"ENDPOINT_URL": "{first}/"}, "first"),
        ({"ENDPOINT_URL_S3": "{first}"}, "first"),
        ({"ENDPOINT_URL": "{first}", "ENDPOINT_URL_S3": "{second}"}, "second"),
        ({"ENDPOINT_URL": "{first}", "ENDPOINT_URL_S3": " "}, "first"),
        ({"ENDPOINT_URL": "{first}", "ENDPOINT_URL_DYNAMODB": "{second}"}, "first"),
        ({"ENDPOINT_URL": "{first}", "IGNORE_CONFIGURED_ENDPOINT_URLS": "false"}, "first"),
        ({"PROFILE": "plain"}, "first"),
        ({"DEFAULT_PROFILE": "plain"}, "first"),
        ({"PROFILE": "two words"}, "second"),
        ({"PROFILE": "two words", "ENDPOINT_URL": "{first}"}, "first"),
        ({"PROFILE": "keys-only", "ENDPOINT_URL": "{first}"}, "first"),
    ],
)
def test_one_endpoint_is_asked_and_no_other(
    aws, first: Store, second: Store, variables: dict[str, str], asked: str
) -> None:
    aws(**variables)
    assert not storage.exists("s3://bucket/a b/c%20d?e")
    other, right = (first, second) if asked == "second" else (second, first)
    assert other.requests == []
    assert right.requests[0] == (f"127.0.0.1:{right.port}", "/bucket/a%20b/c%2520d%3Fe")


@pytest.mark.parametrize(
    "variables",
    [
        {"ENDPOINT_URL": "{first}", "IGNORE_CONFIGURED_ENDPOINT_URLS": "True"},
        {"PROFILE": "ignoring"},
    ],
)
def test_endpoints_can_be_ignored(
    aws, first: Store, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_CONNECT_SECONDS", 0.1)
    aws(REGION="nowhere-1", **variables)  # a region that there is not, so that nothing answers
    with pytest.raises(StorageError):
        storage.exists("s3://bucket/key")
    assert first.requests == []


@pytest.mark.parametrize(
    ("variables", "key", "region"),
    [
        ({}, "", ""),  # nothing to sign with
        ({"PROFILE": "plain"}, "PLAIN", "eu-plain"),
        ({"PROFILE": "plain", "DEFAULT_REGION": "two"}, "PLAIN", "two"),
        ({"PROFILE": "plain", "DEFAULT_REGION": "two", "REGION": "one"}, "PLAIN", "one"),
        ({"PROFILE": "keys-only"}, "ONLY", "us-east-1"),
        ({"ACCESS_KEY_ID": "ENV", "SECRET_ACCESS_KEY": "x"}, "ENV", "eu-default"),
    ],
)
def test_keys_and_region(
    aws, first: Store, variables: dict[str, str], key: str, region: str
) -> None:
    aws(ENDPOINT_URL="{first}", **variables)
    storage.exists("s3://bucket/key")
    signer = first.signers[0].split("/")
    assert (signer[0], signer[-1]) == (key, region)


def test_a_bucket_may_be_part_of_the_hosts_name(aws, first: Store) -> None:
    aws(PROFILE="hosts")
    storage.exists("s3://bucket/key")
    assert first.requests[0] == (f"bucket.localhost:{first.port}", "/key")


def test_an_ipv6_endpoint(aws) -> None:
    store = Store("::1")
    aws(ENDPOINT_URL=store.url)
    assert not storage.exists("s3://bucket/key")
    store.stop()
    assert store.requests[0][0] == f"[::1]:{store.port}"


def test_certificates_of_ones_own(aws, tmp_path: Path) -> None:
    both, alone = tmp_path / "both.pem", tmp_path / "alone.pem"
    subject = "-days 2 -subj /CN=here -addext subjectAltName=IP:127.0.0.1"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {both} -out {alone} {subject}"
    subprocess.run(shlex.split(command), check=True, capture_output=True)
    both.write_text(both.read_text() + alone.read_text())
    store = Store(tls=both)
    aws(ENDPOINT_URL=store.url)
    with pytest.raises(StorageError, match="SSL"):
        storage.exists("s3://bucket/key")
    aws(CA_BUNDLE=str(alone))
    assert not storage.exists("s3://bucket/key")
    store.stop()
    aws(CA_BUNDLE=f"{alone}-not")
    with pytest.raises(InvalidInput, match=r"AWS_CA_BUNDLE: there is no file '.*alone.pem-not'"):
        storage.exists("s3://bucket/key")


@pytest.mark.parametrize("url", ["minio:9000", "http://", "http://h:port", "ftp://h", "//h", "h"])
def test_an_endpoint_that_is_no_url(aws, url: str) -> None:
    aws(ENDPOINT_URL=url)
    with pytest.raises(InvalidInput, match=f"the S3 endpoint '{url}' .*is no URL of the form http"):
        storage.exists("s3://bucket/key")


def test_what_can_not_be_right_is_told(aws, tmp_path: Path) -> None:
    aws(ENDPOINT_URL="http://user:secret@h:1")
    with pytest.raises(InvalidInput, match="without credentials") as caught:
        storage.exists("s3://bucket/key")
    assert "secret" not in str(caught.value)
    aws(PROFILE="typo")
    with pytest.raises(InvalidInput, match="AWS_PROFILE: there is no profile 'typo'"):
        storage.exists("s3://bucket/key")
    (tmp_path / "CONFIG").write_text("endpoint_url = x\n")
    with pytest.raises(InvalidInput, match=r"cannot read AWS's .*/CONFIG"):
        storage.exists("s3://bucket/key")


def test_an_address_in_a_uri_is_refused(aws, first: Store) -> None:
    uri = f"s3://bucket/data?scheme=http&endpoint_override=127.0.0.1:{first.port}"
    with pytest.raises(InvalidInput, match=r"endpoint_override, scheme can't be given in a URI"):
        storage.scheme(uri)
    assert storage.scheme("s3://bucket/what?&x=y") == "s3"
