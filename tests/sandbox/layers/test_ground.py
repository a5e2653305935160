"""What a server stands on where the machine refuses namespaces, or where they fail."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anymind_lite.sandbox.in_server.outcome import StopReason
from anymind_lite.sandbox.in_zygote import attempts
from anymind_lite.sandbox.protocol import Ground
from tests.sandbox.conftest import Sandbox

ROOT = Path(__file__).parent.parent.parent.parent

# A user namespace in which no further one may be made: what a machine without them looks like.
SERVE_WITHOUT = """
import ctypes, json, os, pathlib, sys
from anymind_lite.sandbox.in_child.layers import linux_calls as linux
from anymind_lite.sandbox.in_server.probe import sandbox_state
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import Job, Mode

ids = os.geteuid(), os.getegid()
linux.unshare(linux.CLONE_NEWUSER)
proc_fd = os.open("/proc", os.O_RDONLY)
linux.give_up_setgroups(proc_fd)
# Not root inside: root without the right to become another user would be refused.
linux.write_id_maps(proc_fd, 1000, 1000, ids=ids)
pathlib.Path("/proc/sys/user/max_user_namespaces").write_text("0")
folder = pathlib.Path(sys.argv[1])
supervisor = Supervisor(folder / "scratch", folder / "code")
supervisor.start()
(folder / "code" / "main.py").write_text("def handle(p):\\n  open('x', 'w')\\n  return p\\n")
job = Job(Mode.EXECUTE, Limits(), str(folder / "code"), "main:handle")
outcome = supervisor.run(job, b'"hello"', key="one")
layers = sandbox_state(supervisor).to_json()["layers"]
supervisor.stop()
print(json.dumps([supervisor.ground.tier, supervisor.ground.refusals, outcome.details,
                  layers]))
"""


def test_machine_without_namespaces_serves_as_before_and_says_why(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVE_WITHOUT, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare: " in done.stderr:
        refusal = done.stderr.splitlines()[-1]
        if os.environ.get("CI") == "true":
            pytest.fail(refusal)
        pytest.skip(refusal)
    assert done.returncode == 0, done.stderr
    tier, refusals, details, layers = json.loads(done.stdout)
    assert (tier, details["result"]) == ("B", {"result": "hello"})
    (mounts,) = [layer for layer in layers if layer["name"] == "mounts"]
    assert not mounts["is_on"]
    assert mounts["why_off"] == refusals["namespaces"] != ""
    assert "sysctl -w user.max_user_namespaces" in mounts["fix"]


@pytest.mark.parametrize("number", sorted(attempts.REFUSALS))
def test_known_refusals_are_told_apart(number: int) -> None:
    def refuse() -> None:
        raise OSError(number, "mount on /: no")

    with pytest.raises(attempts.Refused, match="mount on /: no"):
        attempts.attempt(refuse)


def test_unknown_failures_are_not_taken_for_a_refusal() -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "disk")

    def err() -> None:
        raise ValueError("a mistake of ours")

    def die() -> None:
        os._exit(3)

    for action, text in ((fail, "disk"), (err, "a mistake of ours"), (die, "without a word")):
        with pytest.raises(attempts.SetUpFailed, match=text):
            attempts.attempt(action)


def test_failed_set_up_refuses_every_job(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    ground = Ground(zygote_pid=0, error="mount on /: Input/output error")
    monkeypatch.setattr(sandbox.supervisor, "_ground", ground)
    outcome = sandbox.run("def handle(payload): return 1")
    assert outcome.reason is StopReason.SANDBOX_FAILURE
    assert outcome.message == "Sandbox set-up failed (mount on /: Input/output error)."
