"""Builds: what the log says, and what a failed one leaves alone."""

from typing import Any

import pytest

from tests.live_server import Api, LiveServer, pack, pack_agent

GOOD = "def handle(payload):\n    return 'first'\n"
MANIFEST = "name: test\nentrypoint: main:handle\n"

BROKEN = {
    "no_manifest": ({"main.py": GOOD}, ["anymind.yaml", "main.py"]),
    "bad_yaml": ({"anymind.yaml": "name: [", "main.py": GOOD}, ["anymind.yaml", "line"]),
    "no_entrypoint": ({"anymind.yaml": "name: test\n", "main.py": GOOD}, ["entrypoint"]),
    "missing_file": ({"anymind.yaml": MANIFEST, "app.py": GOOD}, ["main", "app.py"]),
    "missing_function": (
        {"anymind.yaml": MANIFEST, "main.py": "def run(p): ...\n"},
        ["main has no function handle", "Functions found: run"],
    ),
    "missing_module": (
        {"anymind.yaml": MANIFEST, "main.py": "import requests\n"},
        ["The module requests is neither in the archive", "Received: anymind.yaml, main.py"],
    ),
    "syntax_error": (
        {"anymind.yaml": MANIFEST, "main.py": "def handle(payload)\n    return 1\n"},
        ["SyntaxError: expected ':' (main.py, line 1)"],
    ),
    "raises": (
        {"anymind.yaml": MANIFEST, "main.py": "print('hi')\n1 / 0\n"},
        ["| hi", "ZeroDivisionError: division by zero (main.py, line 2)"],
    ),
    "never_ends": (
        {"anymind.yaml": MANIFEST, "main.py": "while True: pass\n"},
        ["Importing the entrypoint did not end", "longer than 5 s"],
    ),
    "exits": ({"anymind.yaml": MANIFEST, "main.py": "import os; os._exit(0)"}, ["exit code 0"]),
}


def build(api: Api, agent_id: int, archive: bytes) -> Any:
    answer = api.upload(agent_id, archive)
    assert answer.status == 201, answer.body
    return api.wait_for_build(agent_id, answer.json["id"])


@pytest.mark.parametrize("name", BROKEN)
def test_a_failed_build_says_what_is_wrong(api: Api, name: str) -> None:
    files, expected = BROKEN[name]
    agent_id = api.new_agent()
    version = build(api, agent_id, pack(files))
    assert version["status"] == "failed"
    last = version["build_log"].splitlines()[-1]
    assert "Build failed: " in last
    for text in expected:
        assert text in version["build_log"], version["build_log"]
    agent = api.call("GET", f"/api/v1/agents/{agent_id}").json
    assert (agent["status"], agent["current_version_id"]) == ("failed", None)
    entry = api.call("GET", f"/api/v1/logs/{agent_id}").json[0]
    assert entry["level"] == "ERROR"
    assert entry["message"].startswith("Build failed: ")
    refused = api.execute(agent_id)
    assert (refused.status, "no ready version" in refused.json["detail"]) == (400, True)


def test_a_good_build_tells_each_step_with_its_time(api: Api) -> None:
    agent_id = api.new_agent()
    version = build(api, agent_id, pack_agent(GOOD))
    lines = version["build_log"].splitlines()
    assert all(line.startswith("[") and " s] " in line for line in lines)
    texts = [line.partition("] ")[2] for line in lines]
    assert texts[0].startswith("Building version v1 (")
    assert texts[1] == "Unpacked 2 files"
    assert texts[2] == "Read anymind.yaml: test, entrypoint main:handle"
    assert texts[3].startswith("Imported main:handle in ")
    assert texts[-1] == "Build completed successfully"
    assert version["config"] == MANIFEST


def test_a_failed_build_never_changes_what_runs(api: Api) -> None:
    agent_id = api.deploy(pack_agent(GOOD))
    agent = api.call("GET", f"/api/v1/agents/{agent_id}").json
    version = build(api, agent_id, pack_agent("1 / 0"))
    assert version["status"] == "failed"
    after = api.call("GET", f"/api/v1/agents/{agent_id}").json
    assert after["status"] == "failed"
    assert after["current_version_id"] == agent["current_version_id"]
    assert api.execute(agent_id).json["output_data"] == {"result": "first"}


def test_the_newest_ready_version_runs(api: Api) -> None:
    agent_id = api.deploy(pack_agent(GOOD))
    build(api, agent_id, pack_agent("def handle(payload): return 'second'"))
    assert api.execute(agent_id).json["output_data"] == {"result": "second"}
    versions = api.call("GET", f"/api/v1/agents/{agent_id}/versions").json
    assert [version["version"] for version in versions] == ["v2", "v1"]


def test_an_archive_with_one_top_folder_works(api: Api) -> None:
    files = {
        "my-agent/anymind.yaml": "name: t\nentrypoint: pkg.main:handle\n",
        "my-agent/pkg/main.py": (
            "from pathlib import Path\n"
            "from pkg.other import TEXT\n"
            "def handle(p): return TEXT + Path(__file__).with_name('data.txt').read_text()\n"
        ),
        "my-agent/pkg/other.py": "TEXT = 'a'\n",
        "my-agent/pkg/data.txt": "b",
    }
    agent_id = api.deploy(pack(files))
    assert api.execute(agent_id).json["output_data"] == {"result": "ab"}


@pytest.mark.slow  # test_commands.py executes, after a kill, what was built before it
def test_unpacked_code_is_made_again_after_a_restart(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = tmp_path_factory.mktemp("restart") / "data"
    with LiveServer(data) as live:
        api = live.api.new_user("restarter")
        agent_id = api.deploy(pack_agent(GOOD))
    with LiveServer(data) as live:
        again = Api(live.url, api.headers)
        assert again.execute(agent_id).json["output_data"] == {"result": "first"}


def test_a_damaged_artifact_is_noticed(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.mktemp("damage") / "data"
    with LiveServer(data) as live:
        api = live.api.new_user("unlucky")
        agent_id = api.deploy(pack_agent(GOOD))
    artifact = next((data / "artifacts").rglob("*.tar.gz"))
    content = bytearray(artifact.read_bytes())
    content[-9] ^= 1
    artifact.write_bytes(content)
    with LiveServer(data) as live:
        execution = Api(live.url, api.headers).execute(agent_id).json
    assert execution["status"] == "failed"
    assert "damaged" in execution["error_message"]
