"""Which names the service answers to, and which pages are its own."""

import pytest

from rhocache_service.http.addresses import (
    check_host_pattern,
    host_matches,
    is_named_page,
    is_same_page,
)


@pytest.mark.parametrize(
    ("host", "pattern"),
    [
        ("rho.example.org", "rho.example.org"),
        ("RHO.Example.ORG.:8321", "rho.example.org"),
        ("rho.example.org", "Rho.Example.org."),
        ("a.b.example.org:80", "*.example.org"),
        ("rho:8321", "rho:8321"),
        ("rho.example.org", "rho.example.org:443"),
        ("10.1.2.3:8321", "*"),
        ("[::1]:8321", "::1"),
        ("[0:0:0:0:0:0:0:1]", "[::1]"),
        ("[2001:DB8::7]:80", "2001:db8:0::7"),
        ("rho_cache", "rho_cache"),
    ],
)
def test_names_that_are_ours(host: str, pattern: str) -> None:
    assert host_matches(host, check_host_pattern(pattern))


@pytest.mark.parametrize(
    ("host", "pattern"),
    [
        ("example.org", "*.example.org"),
        ("evilexample.org", "*.example.org"),
        ("example.org.evil.example", "*.example.org"),
        ("rho:9", "rho:8321"),
        ("rho", "rho:8321"),
        ("rho@evil.example", "rho"),
        ("rho:80@evil.example", "rho"),
        ("rho/evil.example", "rho"),
        ("rho, evil.example", "rho"),
        ("", "*"),
        ("a b", "*"),
        ("[::2]:80", "::1"),
        ("::1", "::1"),
    ],
)
def test_names_that_are_not(host: str, pattern: str) -> None:
    assert not host_matches(host, check_host_pattern(pattern))


@pytest.mark.parametrize(
    "pattern",
    ["https://rho.example.org", "rho/", "*rho", "a.*.org", "a b", "*.", "[::1", "rho:http", ""],
)
def test_what_no_host_matches_is_an_error(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"should be a host name like rhocache\.example\.org"):
        check_host_pattern(pattern)


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("http://rho:8321", "rho:8321", True),
        ("https://rho", "rho", True),
        ("https://rho", "rho:443", True),
        ("http://rho:80", "rho", True),
        ("http://RHO", "rho", True),
        ("http://[::1]:8321", "[::1]:8321", True),
        ("http://rho:8322", "rho:8321", False),
        ("http://rho", "rho:8321", False),
        ("http://rho", "rho:443", False),
        ("http://evil", "rho", False),
        ("null", "rho", False),
        ("null", "", False),
    ],
)
def test_a_page_of_the_same_host(origin: str, host: str, own: bool) -> None:
    assert is_same_page(origin, host) is own


@pytest.mark.parametrize(
    ("pattern", "origin", "host", "own"),
    [
        ("rho.example.org", "https://rho.example.org", "upstream:8321", True),
        ("rho.example.org:8443", "https://rho.example.org:8443", "rho.example.org", True),
        # Something else at another port of the same machine:
        ("rho.example.org", "https://rho.example.org:8443", "upstream:8321", False),
        ("rho.example.org", "http://rho.example.org", "rho.example.org:8321", False),
        ("localhost", "http://localhost", "upstream:8321", False),
        # A pattern says what the service answers to, not whose pages it trusts:
        ("*", "https://evil.example", "upstream:8321", False),
        ("*.example.org", "https://evil.example.org", "upstream:8321", False),
    ],
)
def test_a_page_of_a_name_that_a_proxy_hides(
    pattern: str, origin: str, host: str, own: bool
) -> None:
    assert is_named_page(pattern, origin, host) is own
