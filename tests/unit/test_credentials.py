"""Passwords, tokens, API keys and the signing key."""

import base64
import json
import logging
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bcrypt
import jwt
import pytest

from anymind_lite.clock import utc_now
from anymind_lite.credentials import (
    PasswordHasher,
    create_access_token,
    hash_api_key,
    load_secret_key,
    new_api_key,
    read_access_token,
)
from anymind_lite.errors import NotAuthenticated

SECRET = "k" * 64
ROUNDS = 4


def token_for(user_id: int, *, now: datetime | None = None) -> str:
    return create_access_token(
        user_id,
        secret_key=SECRET,
        algorithm="HS256",
        lifetime=timedelta(minutes=30),
        now=now or utc_now(),
    )


def read(token: str) -> int:
    return read_access_token(token, secret_key=SECRET, algorithm="HS256")


def sign(claims: dict[str, Any], *, key: str = SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, key, algorithm)


def later() -> datetime:
    return utc_now() + timedelta(hours=1)


def unsigned(header: str) -> str:
    body = base64.urlsafe_b64encode(b'{"sub":"1","exp":99999999999}').rstrip(b"=").decode()
    head = base64.urlsafe_b64encode(header.encode()).rstrip(b"=").decode()
    return f"{head}.{body}."


class TestPasswords:
    def test_right_password_is_accepted_and_wrong_one_refused(self) -> None:
        hasher = PasswordHasher(ROUNDS)
        stored = hasher.hash("correct horse")
        assert hasher.verify("correct horse", stored)
        assert not hasher.verify("correct hors", stored)

    def test_password_over_72_bytes_matches_nothing_not_even_its_own_start(self) -> None:
        hasher = PasswordHasher(ROUNDS)
        stored = hasher.hash("a" * 72)
        assert hasher.verify("a" * 72, stored)
        assert not hasher.verify("a" * 73, stored)

    @pytest.mark.parametrize("password", ["short", "é" * 100, "nul\0inside", ""])
    def test_unknown_name_costs_one_bcrypt_like_a_known_one(
        self, monkeypatch: pytest.MonkeyPatch, password: str
    ) -> None:
        hasher = PasswordHasher(ROUNDS)
        stored = hasher.hash("something else")
        costs: list[bytes] = []
        original = bcrypt.checkpw

        def counted(secret: bytes, hashed: bytes) -> bool:
            costs.append(hashed[:7])
            return original(secret, hashed)

        monkeypatch.setattr(bcrypt, "checkpw", counted)
        hasher.burn(password)
        hasher.verify(password, stored)
        assert costs == [b"$2b$04$", b"$2b$04$"]

    def test_at_most_two_run_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hasher = PasswordHasher(ROUNDS)
        running, most = 0, 0
        lock, together, release = threading.Lock(), threading.Event(), threading.Event()

        def slow(secret: bytes, hashed: bytes) -> bool:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
                if running == 2:
                    together.set()
            assert release.wait(10)
            with lock:
                running -= 1
            return False

        monkeypatch.setattr(bcrypt, "checkpw", slow)
        threads = [threading.Thread(target=hasher.burn, args=("x",)) for _ in range(5)]
        for thread in threads:
            thread.start()
        assert together.wait(10)
        release.set()
        for thread in threads:
            thread.join(10)
        assert most == 2


class TestTokens:
    @pytest.mark.parametrize("user_id", [1, 42, 2**63 - 1])
    def test_token_names_its_user(self, user_id: int) -> None:
        assert read(token_for(user_id)) == user_id

    def test_token_holds_a_text_subject_an_expiry_and_no_issue_time(self) -> None:
        claims = jwt.decode(token_for(7), options={"verify_signature": False})
        assert claims["sub"] == "7"
        assert set(claims) == {"sub", "exp"}

    def test_expired_token_says_so(self) -> None:
        with pytest.raises(NotAuthenticated, match=r"^Token has expired$"):
            read(token_for(1, now=datetime(2020, 1, 1, tzinfo=UTC)))

    @pytest.mark.parametrize(
        "make",
        [
            lambda: "",
            lambda: "nonsense",
            lambda: "a.b.c",
            lambda: "é.è.ê",
            lambda: token_for(1)[:-4] + "AAAA",
            lambda: token_for(1) + "A" * 5000,
            lambda: sign({"sub": "1", "exp": later()}, key="another" * 10),
            lambda: sign({"sub": "1", "exp": later()}, algorithm="HS512"),
            lambda: unsigned('{"alg":"none","typ":"JWT"}'),
            lambda: unsigned('{"alg":"HS256","b64":false,"crit":["b64"]}'),
            lambda: unsigned('{"alg":["HS256"]}'),
            lambda: unsigned("[" * 2000),
            lambda: unsigned('{"kid":' * 400),
            lambda: sign({"sub": "1"}),
            lambda: sign({"exp": later()}),
            lambda: sign({"sub": "1", "exp": "soon"}),
            lambda: sign({"sub": "1", "exp": float("inf")}),
            lambda: sign({"sub": "1", "exp": later(), "nbf": later()}),
            *(
                lambda subject=subject: sign({"sub": subject, "exp": later()})
                for subject in ("", "0", "-1", "01", "1.0", "1e3", "x", " 1", "1\n", "٣", "²")
            ),
            lambda: sign({"sub": str(2**63), "exp": later()}),
            lambda: sign({"sub": "9" * 3000, "exp": later()}),
        ],
    )
    def test_everything_else_is_refused(self, make: Callable[[], str]) -> None:
        with pytest.raises(NotAuthenticated, match=r"^Invalid token$"):
            read(make())

    def test_number_as_subject_is_refused(self) -> None:
        def part(value: object) -> str:
            return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

        # PyJWT refuses to write one, so it is signed by hand.
        signing_input = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'sub': 1, 'exp': 9**12})}"
        algorithm = jwt.get_algorithm_by_name("HS256")
        signature = algorithm.sign(signing_input.encode(), algorithm.prepare_key(SECRET))
        encoded = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
        with pytest.raises(NotAuthenticated, match=r"^Invalid token$"):
            read(f"{signing_input}.{encoded}")


class TestApiKeys:
    def test_key_prefix_and_hash_belong_together(self) -> None:
        made = new_api_key()
        assert made.key.startswith("anymind_")
        assert len(made.key) == len("anymind_") + 43
        assert made.prefix == made.key[:12]
        assert made.key_hash == hash_api_key(made.key)
        assert len(made.key_hash) == 64

    def test_no_two_keys_are_alike(self) -> None:
        assert len({new_api_key().key for _ in range(100)}) == 100

    def test_any_text_can_be_hashed(self) -> None:
        assert hash_api_key("é") != hash_api_key("")


class TestSecretKey:
    def test_configured_key_is_taken_and_nothing_written(self, tmp_path: Path) -> None:
        path = tmp_path / "secret.key"
        assert load_secret_key(path, "c" * 40) == "c" * 40
        assert not path.exists()

    def test_generated_key_stays_the_same_and_private(self, tmp_path: Path) -> None:
        path = tmp_path / "secret.key"
        key = load_secret_key(path, None)
        assert len(key) == 128
        assert load_secret_key(path, None) == key
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [entry.name for entry in tmp_path.iterdir()] == ["secret.key"]

    @pytest.mark.parametrize("content", [b"", b"\n", b"abc", b"0" * 127, b"\xff" * 128, b"z" * 128])
    def test_damaged_key_is_replaced_with_a_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
    ) -> None:
        path = tmp_path / "secret.key"
        path.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            key = load_secret_key(path, None)
        assert load_secret_key(path, None) == key
        assert len(key) == 128
        assert "all_tokens_void" in caplog.text

    def test_loose_permissions_are_tightened(self, tmp_path: Path) -> None:
        path = tmp_path / "secret.key"
        key = load_secret_key(path, None)
        path.chmod(0o644)
        assert load_secret_key(path, None) == key
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
