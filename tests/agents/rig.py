"""The rig: a real server in one mode, an honest neighbour, canaries, and one case at a time.

What a case is given, what is checked of its end, and what is looked at from outside afterwards.
"""

import json
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.agents.canaries import Canaries
from tests.agents.corpus import Case
from tests.agents.neighbour import Neighbour
from tests.agents.outside import (
    HealthWatch,
    count_descriptors,
    digest_of,
    find_zygote,
    ipc_objects,
    layout,
    names_left,
    readers_of,
    resident_kb,
    scratch_folders,
    session_of,
    settled,
    take_view,
)
from tests.live_server import ROOT, RUN_PY, LiveServer, pack_agent
from tests.processes import descendants, is_running
from tests.waiting import wait_for

MODES = {
    "tier-a": (sys.executable, str(RUN_PY)),
    "tier-b": (
        sys.executable,
        str(ROOT / "tests" / "outer_filter.py"),
        sys.executable,
        str(RUN_PY),
    ),
}
# Where versions are imported ahead, and runs are clones of what has imported them.
WARM = "tier-a-warm"
MODES[WARM] = MODES["tier-a"]
# As on Raspberry Pi OS, whose kernel has no Landlock.
MODES["no-landlock"] = (
    sys.executable,
    str(Path(__file__).parent / "without_layer.py"),
    "files",
)
TIERS = {"tier-a": "A", WARM: "A", "tier-b": "B", "no-landlock": "A"}
_WARM_MEMORY_MB = 256
SETTINGS = {
    "EXECUTION_TIMEOUT_SECONDS": "3",
    "BUILD_TIMEOUT_SECONDS": "3",
    "HOSTILE_SECRET_IN_ENVIRONMENT": "",
}
_HONEST = "def handle(payload):\n    return {'double': payload['number'] * 2}\n"
_LOOKS = """
import os

def handle(payload):
    if os.uname().nodename == "sandbox":
        return {"tier": "A"}
    try:
        return {"tier": "C", "sees": os.listdir("/")}
    except OSError:
        return {"tier": "B"}
"""
# Of a server that has done hundreds of builds; a leak of a result for each is more.
_GROWTH_KB = 64 * 1024


class Unavailable(Exception):
    """This machine, or this server, has no such mode; the text says why."""


class Rig:
    """One server between `with` and its end, for many cases one after the other."""

    def __init__(self, data: Path, mode: str, program: Sequence[str] = ()) -> None:
        self.mode = mode
        self.is_warm = mode == WARM
        self.data = data
        self._program = program or MODES[mode]
        self._stack = ExitStack()
        # Nobody but the server knows it: an agent that returns it has read the server's memory.
        self._environment_secret = f"canary {secrets.token_hex(16)}"

    def __enter__(self) -> "Rig":
        with self._stack:
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        settings = {
            **SETTINGS,
            "HOSTILE_SECRET_IN_ENVIRONMENT": self._environment_secret,
            "WARM_MEMORY_MB": str(_WARM_MEMORY_MB if self.is_warm else 0),
        }
        server = LiveServer(self.data, settings=settings, program=self._program)
        self.server = self._stack.enter_context(server)
        self.server_pid = server.process.pid
        self._api = server.api.new_user("attacker")
        self.zygote_pid = find_zygote(self.server_pid)
        self._require_tier()
        self.canaries = self._stack.enter_context(Canaries(self.data))
        self.neighbour_secret = f"canary {secrets.token_hex(16)}"
        person = server.api.new_user("neighbour")
        self.honest_id = person.deploy(pack_agent(_HONEST), "honest")
        self._person = person
        self.neighbour = Neighbour(person, self.server_pid, self.neighbour_secret)
        self._stack.callback(self.neighbour.abandon)
        self._warm_up()
        self._look_around()
        self._first_rss_kb = resident_kb(self.server_pid)
        self.health = HealthWatch(server.api)
        self._stack.callback(self.health.stop)
        self.health.start()

    def _require_tier(self) -> None:
        """An agent looks around; what the server tells of its tier, if it does, is the same."""
        answer = self._api.call("GET", "/api/v1/system/sandbox")
        told = answer.json if answer.status == 200 else {}
        if (seen := self._tier_by_looking()) != TIERS[self.mode]:
            raise Unavailable(f"the sandbox here is of tier {seen}: {told}")
        assert told.get("tier", seen) == seen

    def _tier_by_looking(self) -> str:
        agent_id = self._api.new_agent("looks")
        version_id = self._api.upload(agent_id, pack_agent(_LOOKS)).json["id"]
        version = self._api.wait_for_build(agent_id, version_id)
        if version["status"] == "failed":
            raise Unavailable(f"the sandbox runs nothing here: {version['build_log']}")
        return str(self._api.execute(agent_id).json["output_data"]["tier"])

    def _warm_up(self) -> None:
        """Let the server make what it makes once: threads, connections, caches."""
        for number in range(5):
            self._check_honest_run(number)

    def _look_around(self) -> None:
        """Take what is there now for what must be there, with the templates of the neighbours."""
        self.neighbour.finish()
        self.zygote_pid = find_zygote(self.server_pid)
        if self.is_warm:
            wait_for(self._is_all_warm, "the honest versions to be imported")
        self.view = take_view(self.server_pid, self.zygote_pid, self.data)

    def _is_all_warm(self) -> bool:
        quick = {"seconds": 0, "secret": self.neighbour_secret}
        runs = ((self.honest_id, {"number": 1}), (self.neighbour.agent_id, quick))
        return all(self._person.execute(*run).json["warm"] for run in runs)

    # One case -------------------------------------------------------------------------------------

    def run(self, case: Case) -> list[Any]:
        """Drive a case through its end and check everything; return its executions' results."""
        case = case.in_mode(self.mode)
        mark = f"m{secrets.token_hex(6)}"
        self.health.reset()
        told, results = self._drive(case, mark)
        self._check_silence(told)
        found = settled(lambda: self.complaints(mark))
        assert found == [], f"{case.name}: {found}"
        if case.may_replace_zygote:
            self._look_around()
        self._check_honest_run(secrets.randbelow(1000))
        return results

    def _drive(self, case: Case, mark: str) -> tuple[list[Any], list[Any]]:
        """Upload, build, execute, as far as the case goes; return what was told and the results."""
        agent_id = self._api.new_agent(mark)
        upload = self._api.upload(agent_id, case.archive())
        if case.ends == "upload":
            _check(str(upload.status), case.status, upload.json["detail"], case.message)
            return [upload.json], []
        assert upload.status == 201, upload.body
        version = self._api.wait_for_build(agent_id, upload.json["id"])
        if case.ends == "build":
            _check(version["status"], case.status, version["build_log"], case.message)
            self._end_template(agent_id)
            return [version], []
        assert version["status"] == "ready", version["build_log"]
        trees = self._code_trees(agent_id)
        rows = [self._execute(case, agent_id, mark, run) for run in range(1, case.runs + 1)]
        assert self._code_trees(agent_id) == trees, "unpacked code was changed"
        self._check_warmth(case, version, rows)
        self._end_template(agent_id)
        return [version, *rows], [row["output_data"] for row in rows]

    def _check_warmth(self, case: Case, version: Mapping[str, Any], rows: Sequence[Any]) -> None:
        """Each case runs from a template in the mode that is for it, where it can have one."""
        is_unfit = "Every run will import it again" in version["build_log"]
        can_be = self.is_warm and not (is_unfit or case.may_start_processes)
        if not case.ends_templates or not can_be:
            assert [row["warm"] for row in rows] == [can_be] * case.runs, version["build_log"]

    def _end_template(self, agent_id: int) -> None:
        """Delete the agent: with it all that was kept of it must be gone."""
        if self.is_warm:
            answer = self._api.call("DELETE", f"/api/v1/agents/{agent_id}")
            assert answer.status < 300, answer.body

    def _execute(self, case: Case, agent_id: int, mark: str, run: int) -> Any:
        neighbour_pid = self.neighbour.be_running(case.name)
        facts = {**self._facts(agent_id), "neighbour_pid": neighbour_pid, "mark": mark}
        answer = self._api.execute(agent_id, {**case.payload, "facts": facts, "run": run})
        assert answer.status == 201, answer.body
        row = answer.json
        if row["error_code"] in case.may_fail:
            return row
        _check(row["status"], case.status, row["error_message"] or "", case.message)
        _check_code(row, case)
        if case.status == "completed":
            _check_result(row["output_data"], case)
        return row

    def _code_trees(self, agent_id: int) -> list[str]:
        others = (self.honest_id, self.neighbour.agent_id)
        return [digest_of(self.data / "code" / str(one)) for one in (agent_id, *others)]

    def _facts(self, agent_id: int) -> dict[str, Any]:
        """What an attacker could only dream of knowing."""
        neighbour_code = self.data / "code" / str(self.neighbour.agent_id)
        scratch = sorted(str(path) for path in scratch_folders(self.data))
        return {
            "server_pid": self.server_pid,
            "zygote_pid": self.zygote_pid,
            "neighbour_init_pid": min(self.neighbour.pids),
            "test_pid": os.getpid(),
            "data_dir": str(self.data),
            "database": str(self.data / "anymind.sqlite3"),
            "secret_key": str(self.data / "secret.key"),
            "lock_file": str(self.data / "run" / "server.lock"),
            "neighbour_code": str(next(neighbour_code.iterdir())),
            "neighbour_scratch": scratch,
            "own_code": str(next((self.data / "code" / str(agent_id)).iterdir())),
            "project": str(ROOT),
            "home": str(Path.home()),
            "server_port": urlsplit(self.server.url).port,
            **self.canaries.facts(),
        }

    # Afterwards -----------------------------------------------------------------------------------

    def _check_silence(self, told: Sequence[Any]) -> None:
        """Nothing that the user is told holds a secret."""
        text = json.dumps(told, ensure_ascii=False)
        for row in told:  # what the agent was given is shown with the row
            if isinstance(row, Mapping) and row.get("input_data"):
                text = text.replace(json.dumps(row["input_data"], ensure_ascii=False), "")
        key = (self.data / "secret.key").read_text(encoding="utf-8").strip()
        secret_texts = [*self.canaries.texts, self.neighbour_secret, self._environment_secret, key]
        assert [one for one in secret_texts if one in text] == [], "a secret was told"

    def complaints(self, mark: str) -> list[str]:
        """Return all that is not as it was before."""
        found = [*self.canaries.complaints(), *self.neighbour.complaints()]
        found += [*self.health.complaints(), *self._process_complaints()]
        if self.server.process.poll() is not None:
            return [*found, "the server ended"]
        if (count := count_descriptors(self.server_pid)) > self.view.descriptors + self._runs():
            found.append(f"the server has {count} descriptors, had {self.view.descriptors}")
        count = count_descriptors(self.zygote_pid)
        if count > self.view.zygote_descriptors + (3 if self.neighbour.pids else 0):
            had = self.view.zygote_descriptors
            found.append(f"the zygote has {count} descriptors, had {had}")
        if changed := layout(self.data) ^ self.view.layout:
            found.append(f"the data folder has changed: {sorted(changed)}")
        if changed := ipc_objects() ^ self.view.ipc:
            found.append(f"SysV objects have changed: {sorted(changed)}")
        if len(scratch := scratch_folders(self.data)) > 1:
            found.append(f"scratch folders were left: {scratch}")
        left = names_left(self.data, mark) - self.view.names
        return found + [f"left behind: {path}" for path in sorted(left)]

    def _runs(self) -> int:
        """How many descriptors the neighbour's run takes in the server, and a call of /health."""
        return 12 if self.neighbour.pids else 0

    def _process_complaints(self) -> list[str]:
        alive = descendants(self.server_pid)
        known = self.view.processes | self.neighbour.pids | readers_of(self.server_pid)
        found = [f"process {pid} is left" for pid in alive - known - self._spares(alive)]
        gone = [pid for pid in self.view.processes if not is_running(pid)]
        return found + [f"process {pid} of the server ended" for pid in gone]

    def _spares(self, alive: set[int]) -> set[int]:
        """Return the clones that the neighbours' templates keep, one each at most."""
        mine = {pid for pid in self.view.processes if session_of(pid) == pid}
        leaders = {session_of(pid): pid for pid in alive - self.view.processes}
        return {pid for session, pid in leaders.items() if session in mine}

    def _check_honest_run(self, number: int) -> None:
        row = self._person.execute(self.honest_id, {"number": number}).json
        assert row["warm"] == self.is_warm, row
        assert row["status"] == "completed", row
        assert row["output_data"] == {"double": 2 * number}, row

    def finish(self) -> None:
        """Check what is left when all cases are through."""
        self.neighbour.finish()
        growth = resident_kb(self.server_pid) - self._first_rss_kb
        assert growth < _GROWTH_KB, f"the server has grown by {growth} KB"
        found = settled(lambda: self.complaints("no mark"))
        assert found == [], found


def _check(status: str, expected: str, text: str, pattern: str) -> None:
    assert status == expected, f"{status} instead of {expected}: {text}"
    assert re.search(pattern, text), f"{pattern!r} is not in: {text}"


def _check_code(row: Mapping[str, Any], case: Case) -> None:
    allowed = case.error_code or (None,)
    assert row["error_code"] in allowed, row


def _check_result(result: Mapping[str, Any], case: Case) -> None:
    if case.result is not None:
        assert result == case.result
        return
    assert result["tried"], "the case tried nothing"
    assert set(result["achieved"]) <= set(case.not_promised), result
