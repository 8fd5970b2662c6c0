"""How URLs are read; what must be refused stands in tests/vectors/hostile_urls.json."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import UrlRefusedError
from app.fetch.url import MAX_URL_CHARACTERS, follow, parse

CANONICAL = [
    ("http://a.example", "http://a.example/"),
    ("HTTP://A.Example/Path", "http://a.example/Path"),
    ("http://a.example:80/", "http://a.example/"),
    ("https://a.example:443/", "https://a.example/"),
    ("https://a.example:80/", "https://a.example:80/"),
    ("http://a.example:0080/", "http://a.example/"),
    ("http://a.example./x", "http://a.example/x"),
    ("http://a.example?x=1", "http://a.example/?x=1"),
    ("http://a.example/?", "http://a.example/?"),
    ("http://a.example/x#fragment", "http://a.example/x"),
    ("http://a.example#@b.example/", "http://a.example/"),
    ("http://a.example/x?y#z?", "http://a.example/x?y"),
    ("http://a.example/%7Eb/%c3%bc", "http://a.example/%7Eb/%c3%bc"),
    ("http://a.example/ü?ü", "http://a.example/%C3%BC?%C3%BC"),
    ('http://a.example/"<>`{}|[]', "http://a.example/%22%3C%3E%60%7B%7D|[]"),
    ("http://a.example/100%", "http://a.example/100%"),
    ("http://a.example/@b:c", "http://a.example/@b:c"),
    ("http://a.example/http://b.example/", "http://a.example/http://b.example/"),
    ("http://bücher.example/", "http://xn--bcher-kva.example/"),
    ("http://BÜCHER.example/", "http://xn--bcher-kva.example/"),
    ("http://faß.example/", "http://xn--fa-hia.example/"),
    ("http://日本語。例え/", "http://xn--wgv71a119e.xn--r8jz45g/"),
    ("http://my_bucket.a.example/", "http://my_bucket.a.example/"),
    ("http://-a-.example/", "http://-a-.example/"),
    ("http://0xdeadbeef.example/", "http://0xdeadbeef.example/"),
    ("http://127.0.0.1.example/", "http://127.0.0.1.example/"),
    ("http://93.184.216.34/", "http://93.184.216.34/"),
    ("http://[2606:4700:4700:0:0:0:0:1111]:8080/", "http://[2606:4700:4700::1111]:8080/"),
    ("http://[::FFFF:1.2.3.4]/", "http://[::ffff:102:304]/"),
]


@pytest.mark.parametrize(("given", "canonical"), CANONICAL)
def test_a_url_has_one_canonical_form(given: str, canonical: str) -> None:
    target = parse(given, None)
    assert target.url == canonical
    assert parse(canonical, None) == target


@given(st.text(), st.sampled_from(["", "http://", "https://a.example", "http://a.example/"]))
def test_any_text_is_refused_or_read_the_same_way_twice(text: str, start: str) -> None:
    try:
        target = parse(start + text, None)
    except UrlRefusedError:
        return
    assert target.url.isascii()
    assert not set(target.url) & set(" \r\n\t\\")
    if len(target.url) <= MAX_URL_CHARACTERS:
        assert parse(target.url, None) == target


@given(st.binary())
def test_any_location_is_refused_or_read(location: bytes) -> None:
    try:
        target = follow(parse("https://a.example/b?c", None), location, None)
    except UrlRefusedError:
        return
    assert target.url.isascii()


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("x", "http://a.example:8080/b/x"),
        ("/x", "http://a.example:8080/x"),
        ("../../x", "http://a.example:8080/x"),
        ("?x", "http://a.example:8080/b/c?x"),
        ("//b.example/x", "http://b.example/x"),
        ("https://b.example", "https://b.example/"),
        ("/ü", "http://a.example:8080/%C3%BC"),
        ("http:///x", "http://a.example:8080/x"),
    ],
)
def test_a_redirect_is_followed_as_browsers_do(location: str, url: str) -> None:
    target = parse("http://a.example:8080/b/c?d#e", None)
    assert follow(target, location.encode(), None).url == url


@pytest.mark.parametrize("location", [b"/\xff", b"http://[x/", b"/a b", b"/\t", b"/" + b"x" * 2083])
def test_a_redirect_that_cannot_be_read_is_refused(location: bytes) -> None:
    with pytest.raises(UrlRefusedError):
        follow(parse("http://a.example/", None), location, None)


def test_a_url_of_2083_characters_is_read_and_one_more_refused() -> None:
    longest = "http://a.example/".ljust(2083, "x")
    assert parse(longest, None).url == longest
    with pytest.raises(UrlRefusedError):
        parse(longest + "x", None)


def test_only_the_ports_of_the_setting_may_be_dialled() -> None:
    ports = frozenset({80, 443})
    assert parse("http://a.example:443/", ports).port == 443
    for port in ("79", "81", "8080"):
        with pytest.raises(UrlRefusedError):
            parse(f"http://a.example:{port}/", ports)
    with pytest.raises(UrlRefusedError):
        parse("https://a.example/", frozenset({80}))


def test_what_a_url_says_is_masked_in_its_repr() -> None:
    assert "secret" not in repr(parse("http://secret.example/secret", None))


@pytest.mark.parametrize(
    ("host", "is_inner"),
    [
        ("localhost", True),
        ("a.localhost", True),
        ("vault", True),
        ("db.internal", True),
        ("notlocal", True),
        ("internal.example", False),
        ("notinternal.example", False),
        ("a.notinternal", False),
        ("8.8.8.8", False),
    ],
)
def test_names_of_inner_networks_are_known(host: str, is_inner: bool) -> None:  # noqa: FBT001 - a table
    assert parse(f"http://{host}/", None).is_inner_name is is_inner
