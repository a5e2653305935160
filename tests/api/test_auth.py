"""Registering, logging in, and who is signed in."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import bcrypt
import jwt
import pytest
from flask.testing import FlaskClient

from anymind_lite.backend import Backend
from anymind_lite.clock import utc_now
from anymind_lite.credentials import create_access_token
from anymind_lite.database import write_transaction
from anymind_lite.models import User
from tests.api.conftest import PASSWORD, Person, body_of, detail

REGISTER, LOGIN, ME = "/api/v1/auth/register", "/api/v1/auth/login", "/api/v1/auth/me"


def registration(**changes: Any) -> dict[str, Any]:
    body = {"email": "new@example.com", "username": "newcomer", "password": PASSWORD}
    return {name: value for name, value in {**body, **changes}.items() if value is not ...}


def deactivate(person: Person) -> None:
    with write_transaction():
        User.update(is_active=False).where(User.id == person.id).execute()


class TestRegister:
    def test_answers_201_with_the_user_and_no_password(self, client: FlaskClient) -> None:
        body = registration(email="Ada@Example.com", username="ada", full_name="Ada Lovelace")
        user = body_of(client.post(REGISTER, json=body), 201)
        assert list(user) == ["id", "email", "username", "full_name", "is_active"]
        assert user["email"] == "Ada@Example.com"
        assert user["full_name"] == "Ada Lovelace"
        assert user["is_active"] is True

    @pytest.mark.parametrize("extra", [{}, {"full_name": None}])
    def test_full_name_is_optional(self, client: FlaskClient, extra: dict[str, Any]) -> None:
        name = f"nameless{len(extra)}"
        body = registration(email=f"{name}@example.com", username=name, **extra)
        assert body_of(client.post(REGISTER, json=body), 201)["full_name"] is None

    def test_unknown_fields_are_ignored(self, client: FlaskClient) -> None:
        body = registration(
            email="x@example.com", username="xx", is_active=False, id=7, role="root"
        )
        user = body_of(client.post(REGISTER, json=body), 201)
        assert user["is_active"] is True
        assert user["id"] != 7 or User.select().count() == 7

    def test_password_is_kept_as_bcrypt_only(self, client: FlaskClient, alice: Person) -> None:
        row = User.get_by_id(alice.id)
        assert row.password_hash.startswith("$2b$04$")
        assert PASSWORD not in str(row.__data__)

    @pytest.mark.parametrize("change", [str, str.upper])
    def test_taken_email_is_refused_whatever_its_case(
        self, client: FlaskClient, alice: Person, change: Callable[[str], str]
    ) -> None:
        response = client.post(REGISTER, json=registration(email=change(alice.email)))
        assert detail(response, 400) == "This email is already registered"

    @pytest.mark.parametrize("change", [str, str.upper])
    def test_taken_username_is_refused_whatever_its_case(
        self, client: FlaskClient, alice: Person, change: Callable[[str], str]
    ) -> None:
        response = client.post(REGISTER, json=registration(username=change(alice.username)))
        assert detail(response, 400) == "This username is already taken"

    @pytest.mark.parametrize(
        ("field", "sentence"),
        [
            ("email", "This email is already registered"),
            ("username", "This username is already taken"),
        ],
    )
    def test_loser_of_a_race_gets_the_same_answer(
        self,
        client: FlaskClient,
        backend: Backend,
        monkeypatch: pytest.MonkeyPatch,
        field: str,
        sentence: str,
    ) -> None:
        body = registration(email=f"race-{field}@example.com", username=f"race-{field}")
        rival = {**body, "email": f"rival-{field}@example.com", "username": f"rival-{field}"}
        rival[field] = body[field].upper()
        original = backend.passwords.hash

        def overtaken(password: str) -> str:
            # Between the look and the write, another request registers.
            monkeypatch.setattr(backend.passwords, "hash", original)
            body_of(client.post(REGISTER, json=rival), 201)
            return original(password)

        monkeypatch.setattr(backend.passwords, "hash", overtaken)
        assert detail(client.post(REGISTER, json=body), 400) == sentence

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"email": ...}, "email is required"),
            ({"username": ...}, "username is required"),
            ({"password": ...}, "password is required"),
            ({"email": None}, "email must not be null"),
            ({"email": 5}, "email must be a string"),
            ({"username": ["a"]}, "username must be a string"),
            ({"password": {"a": 1}}, "password must be a string"),
            ({"full_name": 5}, "full_name must be a string"),
            ({"email": ..., "password": 1}, "email is required; password must be a string"),
            ({"password": "seven77"}, "password must have at least 8 characters"),
            ({"password": ""}, "password must have at least 8 characters"),
            ({"password": "a" * 73}, "password must have at most 72 bytes in UTF-8"),
            ({"password": "é" * 37}, "password must have at most 72 bytes in UTF-8"),
            ({"username": ""}, "username must have 1 to 64 characters"),
            ({"username": "a" * 65}, "username must have 1 to 64 characters"),
            ({"username": "a b"}, "username must not contain spaces or control characters"),
            ({"username": "a\tb"}, "username must not contain spaces or control characters"),
            ({"username": "a\0b"}, "username must not contain spaces or control characters"),
            ({"username": "a\u202eb"}, "username must not contain spaces or control characters"),
            ({"full_name": "a" * 201}, "full_name must have at most 200 characters"),
            ({"full_name": "a\nb"}, "full_name must not contain control characters"),
            *(
                ({"email": email}, "email must be an address such as user@example.com")
                for email in (
                    "",
                    "plain",
                    "@example.com",
                    "a@",
                    "a@b",
                    "a@b.",
                    "a@.b",
                    "a@b..c",
                    "a b@example.com",
                    "a@exa mple.com",
                    "a@b@example.com",
                    "a@-b.com",
                    "a@b-.com",
                    "a..b@example.com",
                    ".a@example.com",
                    "a@example.com\n",
                    "<a>@example.com",
                    "a" * 65 + "@example.com",
                    "a@" + "b" * 250 + ".com",
                )
            ),
        ],
    )
    def test_bad_input_is_400_with_the_reason(
        self, client: FlaskClient, changes: dict[str, Any], sentence: str
    ) -> None:
        response = client.post(REGISTER, json=registration(**changes))
        assert detail(response, 400) == sentence

    @pytest.mark.parametrize("password", ["a" * 72, "é" * 36, "pass\0word", "12345678", " " * 8])
    def test_every_password_of_the_right_length_works(
        self, client: FlaskClient, password: str
    ) -> None:
        name = f"pw{hash(password)}"
        body = registration(email=f"{name}@example.com", username=name, password=password)
        body_of(client.post(REGISTER, json=body), 201)
        body_of(client.post(LOGIN, json=body))
        wrong = {**body, "password": password[:-1] + "x"}
        detail(client.post(LOGIN, json=wrong), 401)


class TestLogin:
    def test_answers_a_bearer_token_that_works(self, client: FlaskClient, alice: Person) -> None:
        body = {"username": alice.username, "password": PASSWORD}
        answer = body_of(client.post(LOGIN, json=body))
        assert list(answer) == ["access_token", "token_type"]
        assert answer["token_type"] == "bearer"
        headers = {"Authorization": f"Bearer {answer['access_token']}"}
        assert body_of(client.get(ME, headers=headers))["username"] == alice.username

    def test_username_has_no_case(self, client: FlaskClient, alice: Person) -> None:
        body_of(client.post(LOGIN, json={"username": alice.username.upper(), "password": PASSWORD}))

    def test_composed_and_decomposed_spelling_are_one_name(self, client: FlaskClient) -> None:
        body = registration(email="jose@example.com", username="jose\u0301")
        assert body_of(client.post(REGISTER, json=body), 201)["username"] == "jos\u00e9"
        for spelling in ("jose\u0301", "jos\u00e9"):
            body_of(client.post(LOGIN, json={"username": spelling, "password": PASSWORD}))

    @pytest.mark.parametrize("password", ["wrong", "", "a" * 1000, PASSWORD + " "])
    def test_wrong_password_and_unknown_name_are_answered_alike(
        self, client: FlaskClient, alice: Person, password: str
    ) -> None:
        known = client.post(LOGIN, json={"username": alice.username, "password": password})
        unknown = client.post(LOGIN, json={"username": "nobody-here", "password": password})
        assert detail(known, 401) == detail(unknown, 401) == "Incorrect username or password"

    @pytest.mark.parametrize("password", ["wrong password", "a" * 100])
    def test_unknown_name_costs_one_bcrypt_of_the_same_cost(
        self,
        client: FlaskClient,
        alice: Person,
        monkeypatch: pytest.MonkeyPatch,
        password: str,
    ) -> None:
        costs: list[bytes] = []
        original = bcrypt.checkpw

        def counted(secret: bytes, hashed: bytes) -> bool:
            costs.append(hashed[:7])
            return original(secret, hashed)

        monkeypatch.setattr(bcrypt, "checkpw", counted)
        for username in (alice.username, "nobody-here"):
            detail(client.post(LOGIN, json={"username": username, "password": password}), 401)
        assert costs == [b"$2b$04$"] * 2

    def test_deactivated_account_is_403_only_with_the_right_password(
        self, client: FlaskClient, alice: Person
    ) -> None:
        deactivate(alice)
        right = client.post(LOGIN, json={"username": alice.username, "password": PASSWORD})
        assert detail(right, 403) == "This account is deactivated"
        wrong = client.post(LOGIN, json={"username": alice.username, "password": "wrong"})
        detail(wrong, 401)


class TestMe:
    def test_shows_who_is_signed_in(self, client: FlaskClient, alice: Person) -> None:
        assert body_of(client.get(ME, headers=alice.bearer)) == {
            "id": alice.id,
            "email": alice.email,
            "username": alice.username,
            "full_name": None,
            "is_active": True,
        }


class TestTokens:
    @pytest.fixture
    def token(self, backend: Backend, alice: Person) -> Callable[..., str]:
        def make(
            *,
            sub: object = ...,
            key: str = backend.secret_key,
            algorithm: str = "HS256",
            exp: object = ...,
        ) -> str:
            expiry = utc_now() + timedelta(hours=1) if exp is ... else exp
            subject = str(alice.id) if sub is ... else sub
            return jwt.encode({"sub": subject, "exp": expiry}, key, algorithm)

        return make

    def get_me(self, client: FlaskClient, authorization: str) -> Any:
        return client.get(ME, headers={"Authorization": authorization})

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_scheme_has_no_case(
        self, client: FlaskClient, token: Callable[..., str], scheme: str
    ) -> None:
        body_of(self.get_me(client, f"{scheme} {token()}"))

    def test_expired_token_says_so(
        self, client: FlaskClient, backend: Backend, alice: Person
    ) -> None:
        expired = create_access_token(
            alice.id,
            secret_key=backend.secret_key,
            algorithm="HS256",
            lifetime=timedelta(minutes=30),
            now=datetime(2024, 1, 1, tzinfo=UTC),
        )
        assert detail(self.get_me(client, f"Bearer {expired}"), 401) == "Token has expired"

    @pytest.mark.parametrize(
        "changes",
        [
            {"key": "somebody else's key, which is long"},
            {"algorithm": "HS384"},
            {"algorithm": "HS512"},
            {"sub": "0"},
            {"sub": "abc"},
            {"sub": "9223372036854775807"},
            {"sub": "9223372036854775808"},
            {"sub": "1 OR 1=1"},
            {"exp": "tomorrow"},
        ],
    )
    def test_forged_token_is_refused(
        self, client: FlaskClient, token: Callable[..., str], changes: dict[str, Any]
    ) -> None:
        # PyJWT warns about the short key; the forger does not care.
        if "key" in changes:
            changes = {"key": changes["key"] * 3}
        authorization = f"Bearer {token(**changes)}"
        assert detail(self.get_me(client, authorization), 401) == "Invalid token"

    def test_unsigned_token_is_refused(
        self, client: FlaskClient, token: Callable[..., str]
    ) -> None:
        body = token().split(".")[1]
        for header in (b'{"alg":"none","typ":"JWT"}', b'{"alg":"None"}', b'{"alg":""}', b"{}"):
            head = base64.urlsafe_b64encode(header).rstrip(b"=").decode()
            for signature in ("", token().split(".")[2]):
                response = self.get_me(client, f"Bearer {head}.{body}.{signature}")
                assert detail(response, 401) == "Invalid token"

    @pytest.mark.parametrize(
        "authorization", ["Bearer x", "Bearer a.b.c", "Bearer é.è.ê", "Bearer " + "a" * 20000]
    )
    def test_nonsense_is_refused(self, client: FlaskClient, authorization: str) -> None:
        assert detail(self.get_me(client, authorization), 401) == "Invalid token"

    @pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", "Basic YTpi", "Token abc"])
    def test_other_schemes_are_no_credentials(
        self, client: FlaskClient, authorization: str
    ) -> None:
        assert "Not authenticated" in detail(self.get_me(client, authorization), 401)

    def test_token_of_a_deleted_user_is_refused(self, client: FlaskClient, alice: Person) -> None:
        with write_transaction():
            User.delete().where(User.id == alice.id).execute()
        assert detail(client.get(ME, headers=alice.bearer), 401) == "Invalid token"
        assert detail(client.get("/api/v1/agents", headers=alice.by_key), 401) == "Invalid API key"

    @pytest.mark.parametrize("path", [ME, "/api/v1/agents", "/api/v1/api-keys"])
    def test_deactivated_user_is_403(self, client: FlaskClient, alice: Person, path: str) -> None:
        deactivate(alice)
        assert detail(client.get(path, headers=alice.bearer), 403) == "This account is deactivated"

    def test_key_of_a_deactivated_user_is_403(self, client: FlaskClient, alice: Person) -> None:
        deactivate(alice)
        response = client.get("/api/v1/agents", headers=alice.by_key)
        assert detail(response, 403) == "This account is deactivated"
