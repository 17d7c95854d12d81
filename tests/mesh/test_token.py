"""Join tokens: nothing is lost on the way through a terminal, one use, one hour, one host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.token import LATE_MS, Token, TokenError, Tokens, proof

MEMBER, JOINER, OTHER = "m" * 40, "j" * 40, "o" * 40
TOKEN = Token(b"c" * 16, "10.9.0.1:7002", MEMBER, b"s" * 16)
NONCE = b"n" * 16
HOUR_S = 3600


def issued() -> Tokens:
    tokens = Tokens()
    tokens.issue(TOKEN, HOUR_S, now_ms=0)
    return tokens


def redeem(
    tokens: Tokens,
    joiner: str = JOINER,
    now_ms: int = 1,
    nonce: bytes = NONCE,
    given_for: str = "",
    token: Token = TOKEN,
) -> bool:
    """Whether it was the first use."""
    given = proof(token.key, MEMBER, given_for or joiner, NONCE)
    first = tokens.check(token.number, given, MEMBER, joiner, nonce, now_ms)
    tokens.use(token.number, joiner)
    return first


@given(
    st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16), st.from_regex(r"\A[a-z0-9.]+:\d{1,5}\Z")
)
def test_text_brings_back_the_same_token(cluster_id: bytes, secret: bytes, address: str) -> None:
    token = Token(cluster_id, address, MEMBER, secret)
    assert Token.parse(f" {token.text()}\n") == token
    assert token.text().startswith("mqn1-")


@given(st.integers(5, len(TOKEN.text()) - 1), st.sampled_from("abzAZ09-_é "))
def test_a_wrong_letter_is_noticed(at: int, letter: str) -> None:
    text = TOKEN.text()
    changed = text[:at] + letter + text[at + 1 :]
    if changed != text:
        with pytest.raises(TokenError, match="mqnode cluster token create"):
            Token.parse(changed)
    for cut in (text[:at], text[5:], text.replace("mqn1", "mqn2")):
        with pytest.raises(TokenError):
            Token.parse(cut)


def test_the_secret_is_in_no_log() -> None:
    assert "ssss" not in repr(TOKEN)
    assert "ssss" not in repr(issued().to_bytes())


def test_one_use() -> None:
    tokens = issued()
    assert redeem(tokens)
    with pytest.raises(TokenError, match="another host"):
        redeem(tokens, OTHER)
    assert not redeem(tokens), "its answer was lost"
    with pytest.raises(TokenError, match="another host"):
        redeem(Tokens.from_bytes(tokens.to_bytes()), OTHER)
    with pytest.raises(TokenError, match="expired"):
        redeem(tokens, now_ms=HOUR_S * 1000)


def test_it_expires() -> None:
    tokens = issued()
    assert tokens.expected(0)
    assert tokens.expected(HOUR_S * 1000), "who comes late learns why"
    assert not tokens.expected(HOUR_S * 1000 + LATE_MS)
    with pytest.raises(TokenError, match="expired"):
        redeem(tokens, now_ms=HOUR_S * 1000)


def test_a_proof_is_for_one_host_one_nonce_and_one_token() -> None:
    tokens = issued()
    with pytest.raises(TokenError, match="wrong token"):
        redeem(tokens, given_for=OTHER)
    with pytest.raises(TokenError, match="wrong token"):
        redeem(tokens, nonce=b"x" * 16)
    with pytest.raises(TokenError, match="wrong token"):
        redeem(tokens, token=Token(b"c" * 16, "h:1", MEMBER, b"t" * 16))
    assert redeem(tokens), "none of these has used it"
