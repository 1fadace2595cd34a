"""What looks like a key is left out of a text, and nothing else is."""

import pytest

from schemas.redaction import holds_secret, redacted


@pytest.mark.parametrize(
    "text",
    [
        "runs/hh",
        "sk-short",
        "http://127.0.0.1:8000/v1",
        "https://host/v1?page=2",
        "meta-llama/Llama-3.1-8B",
        "risk-free-and-very-long-words-of-a-name",
        "hf_home",
        "a://b",
    ],
)
def test_what_is_no_key_stays(text):
    assert not holds_secret(text)
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--set sk-abcdefghijklmnopqrst1234: no", "--set (not shown): no"),
        ("at https://me:word@host/v1 it", "at https://(not shown)@host/v1 it"),
        ("https://a-token-of-some-length@host", "https://(not shown)@host"),
        ("https://host/v1?a=1&token=word", "https://host/v1?a=1&token=(not shown)"),
        ("AKIAABCDEFGHIJKLMNOP and hf_abcdefghijklmnopqrstuv", "(not shown) and (not shown)"),
    ],
)
def test_a_key_is_left_out(text, shown):
    assert holds_secret(text)
    assert redacted(text) == shown


def test_the_values_of_variables_named_like_keys_are_left_out(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "correct horse")
    monkeypatch.setenv("HTTP_PASSWORD", "short")
    monkeypatch.setenv("MONKEY", "a long value")
    assert redacted("correct horse, short, a long value") == "(not shown), short, a long value"
