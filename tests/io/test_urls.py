from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pvtctl.errors import UsageError
from pvtctl.io.urls import bare, below, expanded, is_url, keep_secrets, require_server, with_secrets, without_secrets


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_PVTCTL_URLS", "{}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/a/b.tar", "s3://bucket/a/b.tar"),
        ("https://me:pass@host:8000/a", "https://***@host:8000/a"),
        ("https://me:p@ss@host/a", "https://***@host/a"),
        ("https://host/a.tar?X-Amz-Signature=abc&b=c", "https://host/a.tar?***"),
        ("cannot read 'https://me:x@h/a?sig=1' and http://h/b", "cannot read 'https://***@h/a?***' and http://h/b"),
        ("--data=https://me:x@h/a", "--data=https://***@h/a"),
        ("/data/imagenet", "/data/imagenet"),
        ("me@host:/data?x", "me@host:/data?x"),
    ],
)
def test_secrets_are_hidden_wherever_a_url_stands(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown


def test_secrets_come_back_in_this_process_and_its_children() -> None:
    whole = "https://me:pass@host/set?token=1"
    shown = keep_secrets(whole)
    assert with_secrets(shown) == whole
    assert with_secrets("s3://bucket/set") == "s3://bucket/set"
    code = f"from pvtctl.io.urls import with_secrets; print(with_secrets({shown!r}))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert told.stdout.strip() == whole


def test_a_url_from_a_file_lacks_its_secrets() -> None:
    with pytest.raises(UsageError, match=r"https://h/a\?\*\*\* was written without its user, password or query"):
        with_secrets("https://h/a?***")


@pytest.mark.parametrize("place", ["host:port/a", "host:0/a", "host:70000/a", "[::1/a", ":80/a", "/a", "me:secret@host:x/a?sig=secret"])  # fmt: skip
def test_an_address_that_names_no_server(place: str) -> None:
    with pytest.raises(UsageError, match="names no server") as caught:
        require_server(f"https://{place}")
    assert "secret" not in str(caught.value)


def test_addresses_of_servers() -> None:
    for url in ("http://host", "https://host:8000/a", "https://me:x@[::1]:80/a?b", "s3://bucket:a/b", "file:///a"):
        require_server(url)


def test_names_below_a_url_keep_its_query() -> None:
    assert below("https://u:p@h/set/?sig=1", "train/0.tar") == "https://u:p@h/set/train/0.tar?sig=1"
    assert bare("https://u:p@h/set/0.tar?sig=1") == "https://h/set/0.tar"
    assert not is_url("/a/b")
    assert not is_url(None)
    assert not is_url("https://")
    assert not is_url("s3:///?versionId=3")


def test_braces_count_and_list() -> None:
    assert expanded("{a,b}/t-{08..10}.tar") == [f"{x}/t-{n}.tar" for x in "ab" for n in ("08", "09", "10")]
    assert expanded("t-{9..11}.tar") == ["t-9.tar", "t-10.tar", "t-11.tar"]
    assert expanded("t-*.tar") == ["t-*.tar"]


@pytest.mark.parametrize("pattern", ["{a}", "{}", "{5..2}", "{0..999999999}", "{000..999}{000..999}", "{1..x}"])
def test_braces_that_stand_for_nothing_or_too_much(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"stands for|counts to no end"):
        expanded(pattern)
