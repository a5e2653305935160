"""Cancel against completion, and more callers than a server has room for: all views agree."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.live_server import Answer, Api, LiveServer, pack_agent
from tests.waiting import DEADLINE_SECONDS, wait_for

ROUNDS = 120
FINAL = {"completed", "cancelled"}
EXECUTIONS = "/api/v1/runtime/executions"
ASYNC = {"Prefer": "respond-async"}

QUICK = """
import time
def handle(payload):
    time.sleep(payload["seconds"])
    return payload
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("races") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def racer(live: LiveServer) -> Api:
    return live.api.new_user("racer")


@pytest.fixture(scope="module")
def agent_id(racer: Api) -> int:
    return racer.deploy(pack_agent(QUICK))


def in_parallel(*calls: Callable[[], Answer]) -> list[Answer]:
    """Make calls that begin at one moment."""
    barrier = threading.Barrier(len(calls))

    def call(one: Callable[[], Answer]) -> Answer:
        barrier.wait(DEADLINE_SECONDS)
        return one()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(call, calls))


def views_of(api: Api, agent_id: int, row: Any) -> set[str]:
    """Return what each view says of how an execution stands."""
    got = api.call("GET", f"{EXECUTIONS}/{row['id']}").json
    (listed,) = api.call("GET", f"{EXECUTIONS}?agent_id={agent_id}&limit=1").json
    (filtered,) = api.call("GET", f"{EXECUTIONS}?status={got['status']}&limit=1").json
    assert listed["id"] == filtered["id"] == row["id"]
    own = api.call("GET", f"/api/v1/logs/executions/{row['id']}/logs").json
    agents = api.call("GET", f"/api/v1/logs/{agent_id}?limit=1").json
    logged = {log[0]["metadata"]["status"] for log in (own, agents)}
    return {got["status"], listed["status"], filtered["status"], *logged}


@pytest.mark.slow
def test_cancel_against_completion_has_one_winner_in_every_view(racer: Api, agent_id: int) -> None:
    """The cancel comes a little earlier or later each time, before and after the end."""
    path, seen = f"/api/v1/runtime/{agent_id}/execute", []
    for number in range(ROUNDS):
        seconds = 0.03 * (number % 12) / 12
        row = racer.call("POST", path, {"payload": {"seconds": seconds}}, headers=ASYNC).json
        one = f"{EXECUTIONS}/{row['id']}"
        cancelled, polled = in_parallel(
            lambda one=one: racer.call("POST", f"{one}/cancel"),  # type: ignore[misc]
            lambda one=one: racer.call("GET", f"{one}?wait=30"),  # type: ignore[misc]
        )
        statuses = {cancelled.json["status"], polled.json["status"]}
        assert statuses | views_of(racer, agent_id, row) == {cancelled.json["status"]}
        assert statuses <= FINAL
        seen.append(cancelled.json["status"])
        final = racer.call("GET", one).json
        expected = {"seconds": seconds} if final["status"] == "completed" else None
        assert (final["output_data"], final["error_code"]) == (
            expected,
            None if expected else "cancelled",
        )
    assert "cancelled" in seen


@pytest.mark.slow
def test_late_finish_never_overwrites_a_cancel(racer: Api, agent_id: int) -> None:
    path = f"/api/v1/runtime/{agent_id}/execute"
    for _ in range(20):
        row = racer.call("POST", path, {"payload": {"seconds": 0}}, headers=ASYNC).json
        one = f"{EXECUTIONS}/{row['id']}"
        first = racer.call("POST", f"{one}/cancel").json
        # Another execution later, whatever the first one still wanted to say has been said.
        assert racer.execute(agent_id, {"seconds": 0}).json["status"] == "completed"
        assert racer.call("GET", one).json["status"] == first["status"]


def test_more_callers_than_room_are_answered_201_202_or_503(racer: Api, agent_id: int) -> None:
    path = f"/api/v1/runtime/{agent_id}/execute"

    def execute(number: int) -> Answer:
        headers = ASYNC if number % 3 == 0 else {}
        return racer.call("POST", path, {"payload": {"seconds": 0.2}}, headers=headers)

    with ThreadPoolExecutor(60) as threads:
        answers = list(threads.map(execute, range(60)))
    assert {answer.status for answer in answers} <= {201, 202, 503}
    refused = [answer for answer in answers if answer.status == 503]
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    assert len(refused) <= 60 - 28  # slots, and the places that one user may have
    for answer in answers:
        if answer.status != 503:
            row = racer.call("GET", f"{EXECUTIONS}/{answer.json['id']}?wait=60").json
            assert row["status"] == "completed", row


def test_server_answers_others_while_every_slot_and_place_is_taken(
    live: LiveServer, racer: Api, agent_id: int
) -> None:
    path = f"/api/v1/runtime/{agent_id}/execute"
    begun = []
    while True:
        answer = racer.call("POST", path, {"payload": {"seconds": 25}}, headers=ASYNC)
        if answer.status == 503:
            break
        begun.append(answer.json["id"])
    assert len(begun) == 28
    with ThreadPoolExecutor(32) as threads:  # and every long poll that there may be
        polls = [
            threads.submit(racer.call, "GET", f"{EXECUTIONS}/{one}?wait=60") for one in begun[:16]
        ]
        assert live.api.call("GET", "/health").status == 200
        newcomer = live.api.new_user("newcomer")
        assert newcomer.call("GET", EXECUTIONS).json == []
        mine = newcomer.deploy(pack_agent("def handle(payload):\n    return {}\n"))
        path = f"/api/v1/runtime/{mine}/execute"
        row = newcomer.call("POST", path, {"payload": {}}, headers=ASYNC)
        assert row.status == 202, row.body  # a place is kept for who has none
        for one in reversed(begun):
            assert racer.call("POST", f"{EXECUTIONS}/{one}/cancel").json["status"] == "cancelled"
        assert {poll.result().json["status"] for poll in polls} == {"cancelled"}
        end = newcomer.call("GET", f"{EXECUTIONS}/{row.json['id']}?wait=60").json
        assert end["status"] == "completed"
    wait_for(lambda: racer.execute(agent_id, {"seconds": 0}).status == 201, "a free slot")


def test_client_that_goes_away_does_not_stop_its_execution(racer: Api) -> None:
    agent_id = racer.deploy(pack_agent(QUICK), "left alone")
    path = f"/api/v1/runtime/{agent_id}/execute"
    with pytest.raises(TimeoutError):
        racer.call("POST", path, {"payload": {"seconds": 1.5}}, timeout=0.5)
    listed = f"{EXECUTIONS}?agent_id={agent_id}"
    (row,) = wait_for(lambda: racer.call("GET", listed).json, "the execution to begin")
    row = racer.call("GET", f"{EXECUTIONS}/{row['id']}?wait=30").json
    assert (row["status"], row["output_data"]) == ("completed", {"seconds": 1.5})
