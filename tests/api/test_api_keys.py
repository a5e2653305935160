"""API keys: making, listing, revoking, and what they open."""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from peewee import OperationalError

from anymind_lite.backend import Backend
from anymind_lite.models import ApiKey
from anymind_lite.services import api_keys
from tests.api.conftest import Person, body_of, detail

KEYS, AGENTS = "/api/v1/api-keys", "/api/v1/agents"


def create(client: FlaskClient, person: Person, name: str = "My CLI Key") -> Any:
    return body_of(client.post(KEYS, json={"name": name}, headers=person.bearer), 201)


def list_keys(client: FlaskClient, person: Person) -> Any:
    return body_of(client.get(KEYS, headers=person.bearer))


class TestCreate:
    def test_shows_the_key_this_once(self, client: FlaskClient, alice: Person) -> None:
        made = create(client, alice)
        assert list(made) == ["id", "key", "key_prefix", "name", "created_at"]
        assert re.fullmatch(r"anymind_[A-Za-z0-9_-]{43}", made["key"])
        assert made["key_prefix"] == made["key"][:12]
        assert made["created_at"].endswith("Z")
        assert made["key"] not in str(list_keys(client, alice))

    def test_only_the_hash_is_kept(self, client: FlaskClient, alice: Person) -> None:
        row = ApiKey.get_by_id(alice.key_id)
        assert row.key_hash == hashlib.sha256(alice.key.encode()).hexdigest()
        assert alice.key not in str(row.__data__)

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            ({}, "name is required"),
            ({"name": None}, "name must not be null"),
            ({"name": 1}, "name must be a string"),
            ({"name": ""}, "name must not be empty"),
            ({"name": "  "}, "name must not be empty"),
            ({"name": "a" * 201}, "name must have at most 200 characters"),
            ({"name": "a\nb"}, "name must not contain control characters"),
        ],
    )
    def test_bad_name_is_400(
        self, client: FlaskClient, alice: Person, body: dict[str, Any], sentence: str
    ) -> None:
        assert detail(client.post(KEYS, json=body, headers=alice.bearer), 400) == sentence


class TestList:
    def test_newest_first_and_only_ones_own(
        self, client: FlaskClient, alice: Person, bob: Person
    ) -> None:
        second, third = create(client, alice, "second"), create(client, alice, "third")
        listed = list_keys(client, alice)
        assert [key["id"] for key in listed] == [third["id"], second["id"], alice.key_id]
        assert list(listed[0]) == [
            "id",
            "key_prefix",
            "name",
            "is_active",
            "last_used_at",
            "created_at",
        ]

    def test_last_use_is_shown_fresh(self, client: FlaskClient, alice: Person) -> None:
        assert list_keys(client, alice)[0]["last_used_at"] is None
        body_of(client.get(AGENTS, headers=alice.by_key))
        first = list_keys(client, alice)[0]["last_used_at"]
        assert first.endswith("Z")
        body_of(client.get(AGENTS, headers=alice.by_key))
        assert list_keys(client, alice)[0]["last_used_at"] >= first

    def test_full_disk_does_not_hide_the_list(
        self, client: FlaskClient, alice: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        body_of(client.get(AGENTS, headers=alice.by_key))

        def full(noted: object) -> None:
            raise OperationalError("database or disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(api_keys, "_write_usage", full)
            assert list_keys(client, alice)[0]["last_used_at"] is None
        assert list_keys(client, alice)[0]["last_used_at"] is not None


class TestRevoke:
    def test_revoked_key_opens_nothing_and_stays_listed(
        self, client: FlaskClient, alice: Person
    ) -> None:
        body_of(client.get(AGENTS, headers=alice.by_key))
        response = client.delete(f"{KEYS}/{alice.key_id}", headers=alice.bearer)
        assert (response.status_code, response.data) == (204, b"")
        assert detail(client.get(AGENTS, headers=alice.by_key), 401) == "Invalid API key"
        assert list_keys(client, alice)[0]["is_active"] is False

    def test_revoking_twice_is_no_error(self, client: FlaskClient, alice: Person) -> None:
        for _ in range(2):
            response = client.delete(f"{KEYS}/{alice.key_id}", headers=alice.bearer)
            assert response.status_code == 204

    def test_other_peoples_key_is_404_and_goes_on_working(
        self, client: FlaskClient, alice: Person, bob: Person
    ) -> None:
        response = client.delete(f"{KEYS}/{bob.key_id}", headers=alice.bearer)
        assert detail(response, 404) == "API key not found"
        body_of(client.get(AGENTS, headers=bob.by_key))


class TestUse:
    @pytest.mark.parametrize(
        "change",
        [
            lambda key: "x",
            lambda key: key[:-1],
            lambda key: key + "x",
            lambda key: key[:12],
            lambda key: key.upper(),
            lambda key: hashlib.sha256(key.encode()).hexdigest(),
            lambda key: "é" * 51,
            lambda key: "a" * 20000,
            lambda key: "' OR 1=1 --",
        ],
    )
    def test_anything_but_the_key_is_refused(
        self, client: FlaskClient, alice: Person, change: Callable[[str], str]
    ) -> None:
        response = client.get(AGENTS, headers={"X-API-Key": change(alice.key)})
        assert detail(response, 401) == "Invalid API key"

    def test_key_comes_before_token(self, client: FlaskClient, alice: Person, bob: Person) -> None:
        body_of(client.post(AGENTS, json={"name": "bobs"}, headers=bob.by_key), 201)
        listed = body_of(client.get(AGENTS, headers={**alice.bearer, **bob.by_key}))
        assert [agent["name"] for agent in listed] == ["bobs"]

    def test_bad_key_is_refused_even_beside_a_good_token(
        self, client: FlaskClient, alice: Person
    ) -> None:
        response = client.get(AGENTS, headers={**alice.bearer, "X-API-Key": "wrong"})
        assert detail(response, 401) == "Invalid API key"

    def test_empty_key_is_no_key(self, client: FlaskClient, alice: Person) -> None:
        body_of(client.get(AGENTS, headers={**alice.bearer, "X-API-Key": ""}))

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/api/v1/auth/me"),
            ("GET", KEYS),
            ("POST", KEYS),
            ("DELETE", f"{KEYS}/1"),
        ],
    )
    def test_key_alone_is_403_where_a_token_is_required(
        self, client: FlaskClient, alice: Person, method: str, path: str
    ) -> None:
        response = client.open(path, method=method, json={"name": "x"}, headers=alice.by_key)
        assert "An API key is not enough here" in detail(response, 403)

    def test_token_beside_a_key_is_used_there(
        self, client: FlaskClient, alice: Person, bob: Person
    ) -> None:
        both = {**alice.bearer, **bob.by_key}
        assert body_of(client.get("/api/v1/auth/me", headers=both))["id"] == alice.id

    def test_use_is_written_by_a_flush_and_not_before(
        self, client: FlaskClient, alice: Person, backend: Backend
    ) -> None:
        body_of(client.get(AGENTS, headers=alice.by_key))
        assert ApiKey.get_by_id(alice.key_id).last_used_at is None
        backend.key_usage.flush()
        assert ApiKey.get_by_id(alice.key_id).last_used_at is not None
