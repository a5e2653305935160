"""What an anymind.yaml asks for is granted up to the caps, shown, and refused beyond them."""

from typing import Any

import pytest

from tests.live_server import Api, pack

BIG = "def handle(payload):\n    return len(bytearray(300 << 20))\n"
SPAWNING = """import os, sys, subprocess
def handle(payload):
    return subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True,
                          text=True).stdout
"""


def built(api: Api, wishes: str, source: str = BIG) -> Any:
    """Upload an agent with some lines in its manifest; return the version once it is built."""
    agent_id = api.new_agent()
    manifest = f"name: test\nentrypoint: main:handle\n{wishes}\n"
    answer = api.upload(agent_id, pack({"anymind.yaml": manifest, "main.py": source}))
    return api.wait_for_build(agent_id, answer.json["id"])


def test_a_version_gets_what_it_asks_for_and_its_neighbour_the_default(api: Api) -> None:
    larger = built(api, "limits: {memory_mb: 512}")
    usual = built(api, "")
    assert (larger["limits"], usual["limits"]) == ({"memory_mb": 512}, {})
    assert api.execute(larger["agent_id"]).json["output_data"] == {"result": 300 << 20}
    assert api.execute(usual["agent_id"]).json["error_code"] == "out_of_memory"


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (
            "limits: {memory_mb: 4096}",
            "limits.memory_mb is 4096, this server allows at most 1024 (MAX_MEMORY_MB).",
        ),
        (
            "limits: {timeout_seconds: 300.5}",
            "timeout_seconds is 300.5, this server allows at most 300 (MAX_TIMEOUT_SECONDS).",
        ),
        (
            "network: ['api.example.com:443']",
            "line 3: network is not offered: agents have none; remove the key.",
        ),
    ],
)
def test_what_cannot_be_granted_fails_the_build_with_the_reason(
    api: Api, wishes: str, message: str
) -> None:
    version = built(api, wishes)
    assert version["status"] == "failed"
    assert "Build failed: anymind.yaml: " in version["build_log"]
    assert version["build_log"].endswith(message)


def test_limits_hold_for_the_import_of_a_build(api: Api) -> None:
    source = "hoard = bytearray(100 << 20)\ndef handle(payload): pass\n"
    assert built(api, "limits: {memory_mb: 64}", source)["status"] == "failed"
    assert built(api, "limits: {memory_mb: 200}", source)["status"] == "ready"


def test_processes_are_for_those_that_ask_where_there_are_namespaces(api: Api) -> None:
    has_namespaces = api.call("GET", "/api/v1/system/sandbox").json["tier"] == "A"
    version = built(api, "subprocess: true", SPAWNING)
    assert version["subprocess"] is True
    if has_namespaces:
        assert version["status"] == "ready", version["build_log"]
        execution = api.execute(version["agent_id"]).json
        assert execution["output_data"] == {"result": "42\n"}
    else:
        assert version["status"] == "failed"
        assert "subprocess: true needs namespaces, which this machine" in version["build_log"]


def test_threads_are_counted(api: Api) -> None:
    if api.call("GET", "/api/v1/system/sandbox").json["tier"] != "A":
        pytest.skip("counted in namespaces alone")
    source = (
        "import threading\n"
        "def handle(payload):\n"
        "    done = threading.Event()\n"
        "    for _ in range(30): threading.Thread(target=done.wait).start()\n"
        "    done.set()\n"
    )
    few, enough = built(api, "limits: {processes: 10}", source), built(api, "", source)
    assert "can't start new thread" in api.execute(few["agent_id"]).json["error_message"]
    assert api.execute(enough["agent_id"]).json["status"] == "completed"
