"""An agent with `concurrency` runs so often at once and no more, and leaves room to the others."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live_server import Answer, Api, LiveServer, pack, pack_agent
from tests.waiting import wait_for

QUICK = "def handle(payload):\n    return {'ran': True}\n"
# The clock is the machine's, the same in every process.
TIMED = """import time
def handle(payload):
    began = time.monotonic()
    time.sleep(payload["seconds"])
    return {"began": began, "ended": time.monotonic()}
"""
SECONDS = 0.1  # long enough that two at once would be seen, were they let
ENDLESS = {"seconds": 250}  # until it is cancelled


def limited(concurrency: int | None) -> bytes:
    """Return an agent that tells when it ran, of which so many may run at once."""
    manifest = "name: limited\nentrypoint: main:handle\nlimits: {timeout_seconds: 300}\n"
    if concurrency is not None:
        manifest += f"concurrency: {concurrency}\n"
    return pack({"anymind.yaml": manifest, "main.py": TIMED})


def begin(api: Api, agent_id: int) -> Answer:
    """Execute an agent that goes on until it is cancelled, without waiting for it."""
    return api.call(
        "POST",
        f"/api/v1/runtime/{agent_id}/execute",
        {"payload": ENDLESS},
        headers={"Prefer": "respond-async"},
    )


def status_of(api: Api, execution: Any) -> str:
    return str(api.call("GET", f"/api/v1/runtime/executions/{execution['id']}").json["status"])


def cancel(api: Api, execution: Any) -> None:
    answer = api.call("POST", f"/api/v1/runtime/executions/{execution['id']}/cancel")
    assert answer.json["status"] == "cancelled"


def wait_until_running(api: Api, execution: Any) -> None:
    wait_for(lambda: status_of(api, execution) == "running", "the execution to run")


def all_at_once(calls: list[Callable[[], Answer]]) -> list[Answer]:
    """Return what the calls answered, all begun together."""
    answers: list[Answer] = []
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Answer]) -> None:
        start.wait()
        answers.append(call())

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(calls)
    return answers


def most_at_once(answers: list[Answer]) -> int:
    """Return how many of the agent's runs there were at once, by what they saw of the clock."""
    runs = [answer.json["output_data"] for answer in answers]
    instants = [(run["began"], 1) for run in runs] + [(run["ended"], -1) for run in runs]
    counts, running = [], 0
    for _, change in sorted(instants):
        running += change
        counts.append(running)
    return max(counts)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_never_do_more_run_at_once(api: Api, concurrency: int) -> None:
    """The server of the tests has 4 slots and 32 places, of which 16 are for one such agent."""
    agent_id = api.deploy(limited(concurrency))
    calls = [lambda: api.execute(agent_id, {"seconds": SECONDS})] * 8
    answers = all_at_once(calls)
    assert [answer.json["status"] for answer in answers] == ["completed"] * 8
    assert most_at_once(answers) <= concurrency


def test_agents_without_it_run_in_every_slot(api: Api) -> None:
    agent_id = api.deploy(limited(None))
    executions = [begin(api, agent_id).json for _ in range(5)]
    for execution in executions[:4]:
        wait_until_running(api, execution)
    assert status_of(api, executions[4]) == "pending"
    for execution in reversed(executions):
        cancel(api, execution)


def test_others_run_beside_it_and_past_its_line(api: Api) -> None:
    agent_id, other_id = api.deploy(limited(1)), api.deploy(pack_agent(QUICK))
    first, second, third = (begin(api, agent_id).json for _ in range(3))
    wait_until_running(api, first)
    assert api.execute(other_id).json["status"] == "completed"
    states = [status_of(api, execution) for execution in (first, second, third)]
    assert states == ["running", "pending", "pending"]
    cancel(api, first)
    wait_until_running(api, second)
    assert status_of(api, third) == "pending"
    for execution in (third, second):
        cancel(api, execution)


def test_a_new_version_does_not_double_it(api: Api) -> None:
    agent_id = api.deploy(limited(1))
    old = begin(api, agent_id).json
    wait_until_running(api, old)
    version = api.upload(agent_id, limited(1)).json
    assert api.wait_for_build(agent_id, version["id"])["concurrency"] == 1
    new = begin(api, agent_id).json
    assert new["agent_version_id"] == version["id"] != old["agent_version_id"]
    assert status_of(api, new) == "pending"
    # A third version lets two run: it waits behind the second all the same, and then beside it.
    version = api.upload(agent_id, limited(2)).json
    assert api.wait_for_build(agent_id, version["id"])["concurrency"] == 2
    newest = begin(api, agent_id).json
    assert status_of(api, newest) == "pending"
    cancel(api, old)
    for execution in (new, newest):
        wait_until_running(api, execution)
    for execution in (new, newest):
        cancel(api, execution)


@pytest.mark.parametrize("text", ["0", "257", "'2'", "many"])
def test_what_is_no_such_number_fails_the_build(api: Api, text: str) -> None:
    agent_id = api.new_agent()
    manifest = f"name: a\nentrypoint: main:handle\nconcurrency: {text}\n"
    version = api.upload(agent_id, pack({"anymind.yaml": manifest, "main.py": QUICK})).json
    built = api.wait_for_build(agent_id, version["id"])
    assert (built["status"], built["concurrency"]) == ("failed", None)
    assert built["build_log"].endswith(
        "anymind.yaml: line 3: concurrency is not a whole number from 1 to 256; "
        "write one in plain digits."
    )


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Api]:
    """A server with 2 slots and 4 places, and a user of it."""
    settings = {"WORKER_CONCURRENCY": "2", "EXECUTION_QUEUE_SIZE": "4"}
    with LiveServer(tmp_path / "data", settings=settings) as live:
        yield live.api.new_user("ada")


def test_a_busy_agent_is_429_and_a_full_server_503(small: Api) -> None:
    agent_id, open_id = small.deploy(limited(1)), small.deploy(limited(None))
    kept = [begin(small, agent_id) for _ in range(3)]
    assert [answer.status for answer in kept] == [202] * 3
    busy = [begin(small, agent_id), small.execute(agent_id, ENDLESS)]
    for answer in busy:
        assert answer.status == 429
        assert answer.json == {
            "detail": "The agent's concurrency is 1, and others of its executions come first"
        }
        assert int(answer.headers["Retry-After"]) >= 1
    kept += [begin(small, open_id) for _ in range(2)]  # one runs; the last place is for others
    assert [answer.status for answer in kept] == [202] * 5
    for full_for in (agent_id, open_id):
        answer = begin(small, full_for)
        assert (answer.status, answer.json["detail"]) == (503, "All execution slots are busy")
        assert int(answer.headers["Retry-After"]) >= 1
    listed = small.call("GET", "/api/v1/runtime/executions").json
    assert len(listed) == 5  # who was turned away has no row
    for execution in listed:
        cancel(small, execution)


@pytest.mark.slow
def test_a_storm_is_answered_201_429_or_503(small: Api) -> None:
    limited_id, open_id = small.deploy(limited(1)), small.deploy(pack_agent(TIMED))
    answers: dict[int, list[Answer]] = {limited_id: [], open_id: []}

    def call(agent_id: int) -> Answer:
        answers[agent_id].append(answer := small.execute(agent_id, {"seconds": 0.01}))
        return answer

    calls = [lambda: call(limited_id), lambda: call(open_id)] * 30
    all_at_once(calls)
    assert {answer.status for answer in answers[open_id]} <= {201, 503}
    assert {answer.status for answer in answers[limited_id]} <= {201, 429, 503}
    turned_away = [one for many in answers.values() for one in many if one.status != 201]
    assert turned_away
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in turned_away)
    served = [answer for answer in answers[limited_id] if answer.status == 201]
    assert served
    assert most_at_once(served) == 1
    # Nothing is left of it: both run as before.
    for agent_id in answers:
        assert small.execute(agent_id, {"seconds": 0}).json["status"] == "completed"
