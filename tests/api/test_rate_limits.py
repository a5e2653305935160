"""Log-ins that fail and registrations are bounded, by client address."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import bcrypt
import pytest
from flask.testing import FlaskClient

from anymind_lite.routes._limits import SteadyCounts
from tests.api.conftest import PASSWORD, Person, body_of, detail
from tests.waiting import DEADLINE_SECONDS

LOGIN, REGISTER = "/api/v1/auth/login", "/api/v1/auth/register"


def login(client: FlaskClient, username: str, password: str, address: str = "192.0.2.1") -> Any:
    return client.post(
        LOGIN,
        json={"username": username, "password": password},
        environ_overrides={"REMOTE_ADDR": address},
    )


def refused(response: Any) -> None:
    seconds = response.headers["Retry-After"]
    assert 1 <= int(seconds) <= 3600
    assert detail(response, 429) == f"Too many attempts; try again in {seconds} seconds"


@pytest.fixture
def limited(client_with: Callable[..., FlaskClient]) -> FlaskClient:
    return client_with(login_rate_limit="3/minute", register_rate_limit="2/hour")


def test_failed_logins_are_bounded_before_bcrypt_runs(
    limited: FlaskClient, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    for username in (alice.username, "nobody", alice.username):
        detail(login(limited, username, "wrong password"), 401)

    def never(*_: object) -> bool:
        raise AssertionError

    monkeypatch.setattr(bcrypt, "checkpw", never)
    # The right password too: who guesses does not learn that he has found it.
    refused(login(limited, alice.username, PASSWORD))
    refused(login(limited, "somebody", "else"))


def test_other_addresses_are_not_affected(limited: FlaskClient, alice: Person) -> None:
    for _ in range(3):
        detail(login(limited, "nobody", "wrong"), 401)
    refused(login(limited, "nobody", "wrong"))
    body_of(login(limited, alice.username, PASSWORD, "192.0.2.2"))


def test_logins_that_succeed_are_not_counted(limited: FlaskClient, alice: Person) -> None:
    for _ in range(8):
        body_of(login(limited, alice.username, PASSWORD))
    detail(login(limited, alice.username, "wrong"), 401)


def test_parallel_logins_are_no_way_round_the_limit(
    client_with: Callable[..., FlaskClient], alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = client_with(login_rate_limit="5/minute").application
    everybody, check = threading.Barrier(40), bcrypt.checkpw
    refused_count = threading.Semaphore(0)

    def slow(*arguments: bytes) -> bool:
        # No attempt ends before 35 others have been refused, or the deadline is over.
        for _ in range(7):
            refused_count.acquire(timeout=DEADLINE_SECONDS)
        return check(*arguments)

    monkeypatch.setattr(bcrypt, "checkpw", slow)

    def try_once(_: int) -> int:
        everybody.wait(DEADLINE_SECONDS)
        response = login(app.test_client(), alice.username, "wrong password")
        if response.status_code == 429:
            refused(response)
            refused_count.release()
        return int(response.status_code)

    with ThreadPoolExecutor(40) as threads:
        statuses = list(threads.map(try_once, range(40)))
    assert Counter(statuses) == {401: 5, 429: 35}
    refused(login(app.test_client(), alice.username, PASSWORD))


def test_parallel_logins_that_succeed_use_nothing_up(
    client_with: Callable[..., FlaskClient], alice: Person
) -> None:
    app = client_with(login_rate_limit="5/minute").application

    def try_once(_: int) -> int:
        return int(login(app.test_client(), alice.username, PASSWORD).status_code)

    with ThreadPoolExecutor(5) as threads:
        assert set(threads.map(try_once, range(40))) == {200}
    for _ in range(5):
        detail(login(app.test_client(), alice.username, "wrong"), 401)
    refused(login(app.test_client(), alice.username, "wrong"))


def test_malformed_logins_are_not_counted(limited: FlaskClient, alice: Person) -> None:
    for _ in range(5):
        detail(limited.post(LOGIN, json={}, environ_overrides={"REMOTE_ADDR": "192.0.2.1"}), 400)
    body_of(login(limited, alice.username, PASSWORD))


@pytest.mark.parametrize(
    ("addresses", "other"),
    [
        (["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::1", "2001:db8::3"], "2001:db8:0:1::1"),
        (["192.0.2.7", "::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7"], "::ffff:192.0.2.8"),
        (["fe80::1%eth0", "fe80::2%eth0", "fe80::3", "fe80::4"], "fe81::1"),
        (["", "", "", ""], "a socket"),
    ],
)
def test_one_client_has_one_count_whatever_it_calls_itself(
    limited: FlaskClient, addresses: list[str], other: str
) -> None:
    for address in addresses[:3]:
        detail(login(limited, "nobody", "wrong", address), 401)
    refused(login(limited, "nobody", "wrong", addresses[3]))
    detail(login(limited, "nobody", "wrong", other), 401)


def test_forwarding_headers_of_strangers_are_not_believed(limited: FlaskClient) -> None:
    for number in range(3):
        headers = {"X-Forwarded-For": f"198.51.100.{number}"}
        body = {"username": "nobody", "password": "wrong"}
        detail(limited.post(LOGIN, json=body, headers=headers), 401)
    refused(limited.post(LOGIN, json=body, headers={"X-Forwarded-For": "198.51.100.9"}))


def test_registrations_are_bounded(limited: FlaskClient) -> None:
    for _ in range(2):
        detail(limited.post(REGISTER, json={"email": "x"}), 400)
    refused(limited.post(REGISTER, json={"email": "x"}))


def test_each_limit_can_be_off(client_with: Callable[..., FlaskClient]) -> None:
    for changes in ({"login_rate_limit": "1/minute"}, {"register_rate_limit": "1/minute"}):
        client = client_with(**changes)
        statuses = {
            "login_rate_limit": [login(client, "nobody", "x").status_code for _ in range(3)],
            "register_rate_limit": [client.post(REGISTER, json={}).status_code for _ in range(3)],
        }
        (limited,) = changes
        assert statuses.pop(limited)[1:] == [429, 429]
        assert 429 not in statuses.popitem()[1]


def test_refusal_can_be_read_by_the_browser(limited: FlaskClient) -> None:
    for _ in range(2):
        detail(limited.post(REGISTER, json={}), 400)
    response = limited.post(REGISTER, json={}, headers={"Origin": "http://localhost:3000"})
    refused(response)
    assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert "Retry-After" in response.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("step", [timedelta(days=-2), timedelta(days=54 * 365)])
def test_clock_steps_lock_nobody_out(
    limited: FlaskClient, alice: Person, step: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        detail(login(limited, "nobody", "wrong"), 401)
    now, seconds = time.time, time.monotonic
    monkeypatch.setattr(time, "time", lambda: now() + step.total_seconds())
    answer = login(limited, alice.username, PASSWORD)
    refused(answer)  # nor let in early
    wait = int(answer.headers["Retry-After"])
    assert wait <= 60
    monkeypatch.setattr(time, "monotonic", lambda: seconds() + wait)
    body_of(login(limited, alice.username, PASSWORD))


def test_windows_that_ended_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, seconds = SteadyCounts(60), time.monotonic
    for number in range(100):
        assert counts.add(f"address {number}") == 1
    monkeypatch.setattr(time, "monotonic", lambda: seconds() + 61)
    assert counts.get("address 1") == 0
    assert counts.add("another") == 1
    assert len(counts) == 1
