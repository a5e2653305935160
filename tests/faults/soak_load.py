"""Everything that clients do with a server, well and badly, in no order; a thread is one user."""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.live_server import Answer, Api, form_file, pack, pack_agent
from tests.waiting import wait_for

_MOST_AGENTS = 4
_PACE_SECONDS = 0.02  # between two bytes of a slow client
_REFUSED = (503, 507)  # what a server that has too much to do may answer at any time
UNFINISHED = ("pending", "running")

SOURCE = """
import ctypes, os, time

def handle(payload):
    what = payload.get("do", "echo")
    if what == "sleep":
        time.sleep(payload["seconds"])
    elif what == "spin":
        while True:
            pass
    elif what == "print":
        for number in range(2000):
            print(number, "x" * 100)
    elif what == "raise":
        raise ValueError("as it was told")
    elif what == "exit":
        os._exit(3)
    elif what == "segfault":
        ctypes.string_at(0)
    elif what == "memory":
        held = [bytearray(1 << 20) for _ in range(payload["mb"])]
    elif what == "files":
        for number in range(50):
            open(f"file{number}", "w").write("x" * 1000)
    elif what == "large":
        return {"text": "x" * 100_000}
    return {"echo": payload}
"""
PAYLOADS: tuple[dict[str, Any], ...] = (
    *({"do": "echo", "n": number} for number in range(8)),
    {"do": "sleep", "seconds": 0.1},
    {"do": "sleep", "seconds": 30},  # times out
    {"do": "spin"},
    {"do": "print"},
    {"do": "raise"},
    {"do": "exit"},
    {"do": "segfault"},
    {"do": "memory", "mb": 20},
    {"do": "memory", "mb": 2000},
    {"do": "files"},
    {"do": "large"},
)


class Soak:
    """The threads, and what they counted; between two `running()` everybody is quiet."""

    def __init__(self, api: Api, seed: int, threads: int = 6) -> None:
        self.failures: list[str] = []
        self.answers: Counter[str] = Counter()
        self._stop = threading.Event()
        self.users = [User(self, api, f"{seed}-{number}") for number in range(threads)]

    @property
    def requests(self) -> int:
        """How many were answered up to now."""
        return sum(self.answers.values())

    @contextmanager
    def running(self) -> Iterator[None]:
        """Make load for as long as the block."""
        self._stop.clear()
        threads = [threading.Thread(target=user.work, args=(self._stop,)) for user in self.users]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()


@dataclass
class User:
    """One person with an account, a few agents, and a seed that decides what comes next."""

    soak: Soak
    server: Api
    seed: str
    agents: list[int] = field(default_factory=list)
    executions: list[int] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._choices = random.Random(self.seed)
        self._name = f"person{self.seed}"
        self._logins = 0
        self._api = self.server.new_user(self._name)

    def work(self, stop: threading.Event) -> None:
        """Do one thing after the other until told to stop."""
        wishes = (
            *(self._execute,) * 8,
            *(self._begin,) * 3,
            *(self._look_around,) * 5,
            self._ask_twice,
            self._cancel,
            self._poll_in_vain,
            self._sign_in,
            self._use_keys,
            self._upload_well,
            self._upload_badly,
            self._rename,
            self._ask_badly,
            self._go_away,
            self._be_slow,
            self._delete,
        )
        while not stop.is_set():
            try:
                self._have_agent()
                self._choices.choice(wishes)()
            except Exception as exc:
                self.soak.failures.append(f"user {self.seed}: {exc!r}")
                raise

    # requests, and what may come of them

    def _ask(self, expected: tuple[int, ...], method: str, path: str, *args: Any, **kw: Any) -> Any:
        return self._check(expected, f"{method} {path}", self._api.call(method, path, *args, **kw))

    def _check(self, expected: tuple[int, ...], what: str, answer: Answer) -> Answer:
        self.soak.answers[str(answer.status)] += 1
        if answer.status not in (*expected, *_REFUSED):
            self.soak.failures.append(f"{what}: {answer.status} {answer.body[:300]!r}")
        return answer

    def _have_agent(self) -> None:
        if not self.agents:
            self.agents.append(self._new_agent())
            self._upload(pack_agent(SOURCE), self.agents[-1])

    def _new_agent(self) -> int:
        return int(self._ask((201,), "POST", "/api/v1/agents", {"name": "agent"}).json["id"])

    @property
    def _agent(self) -> int:
        return self._choices.choice(self.agents)

    # executions

    def fill(self, count: int) -> None:
        """Take every slot and every place, so that each has its thread from now on."""
        self._have_agent()
        path = f"/api/v1/runtime/{self.agents[0]}/execute"
        body, headers = {"payload": {"do": "sleep", "seconds": 0.9}}, {"Prefer": "respond-async"}
        wait_for(lambda: self._ask((201, 400), "POST", path, body).status == 201, "a first build")
        for _ in range(count):
            self._ask((202,), "POST", path, body, headers=headers)

    def _execution_path(self) -> str:
        return f"/api/v1/runtime/{self._agent}/execute"

    def _note(self, answer: Answer) -> None:
        if answer.status in (201, 202):
            self.executions = [*self.executions[-20:], answer.json["id"]]

    def _execute(self) -> None:
        body = {"payload": self._choices.choice(PAYLOADS)}
        prefer = self._choices.choice(({}, {}, {"Prefer": "wait=0"}, {"Prefer": "wait=1"}))
        expected = (201, 202, 400, 429)  # 400: no version is ready yet
        self._note(self._ask(expected, "POST", self._execution_path(), body, headers=prefer))

    def _begin(self) -> None:
        body = {"payload": self._choices.choice(PAYLOADS)}
        headers = {"Prefer": "respond-async"}
        self._note(self._ask((202, 400), "POST", self._execution_path(), body, headers=headers))

    def _ask_twice(self) -> None:
        headers = {"Idempotency-Key": f"{self._name} {self._choices.random()}"}
        path = self._execution_path()
        body = {"payload": {"do": "echo"}}
        first = self._ask((201, 400), "POST", path, body, headers=headers)
        if first.status == 201:
            again = self._ask((201,), "POST", path, body, headers=headers)
            assert again.json["id"] == first.json["id"], again.body
            self._ask((400,), "POST", path, {"payload": {"do": "spin"}}, headers=headers)

    def _cancel(self) -> None:
        body = {"payload": {"do": "sleep", "seconds": 30}}
        headers = {"Prefer": "respond-async"}
        begun = self._ask((202, 400), "POST", self._execution_path(), body, headers=headers)
        if begun.status == 202:
            path = f"/api/v1/runtime/executions/{begun.json['id']}/cancel"
            assert self._ask((200,), "POST", path).json["status"] in ("cancelled", "failed")

    def _poll_in_vain(self) -> None:
        body = {"payload": {"do": "sleep", "seconds": 30}}
        headers = {"Prefer": "respond-async"}
        begun = self._ask((202, 400), "POST", self._execution_path(), body, headers=headers)
        if begun.status == 202:
            path = f"/api/v1/runtime/executions/{begun.json['id']}"
            self._ask((200,), "GET", f"{path}?wait=1")
            self._ask((200,), "POST", f"{path}/cancel")

    # looking

    def _look_around(self) -> None:
        agent, execution = self._agent, (self.executions or [1])[-1]
        paths = [
            *("/health", "/docs", "/openapi.json"),
            *("/api/v1/agents", "/api/v1/agents?skip=1&limit=1"),
            *(f"/api/v1/agents/{agent}", f"/api/v1/agents/{agent}/versions"),
            "/api/v1/runtime/executions?limit=20",
            f"/api/v1/runtime/executions?agent_id={agent}&status=completed&limit=5",
            f"/api/v1/runtime/executions?before_id={execution}&limit=5",
            *(f"/api/v1/logs/{agent}?limit=20", f"/api/v1/logs/executions/{execution}/logs"),
            f"/api/v1/runtime/executions/{execution}",
            *(f"/api/v1/uploads/{path}" for path in self.artifacts[-1:]),
        ]
        for path in self._choices.sample(paths, 3):
            self._ask((200, 404), "GET", path)
        self._ask((200,), "GET", "/ready")

    # accounts

    def _sign_in(self) -> None:
        self._logins += 1
        name, password = f"{self._name}-{self._logins % 5}", "correct horse"
        person = {"email": f"{name}@example.com", "username": name, "password": password}
        self._ask((201, 400), "POST", "/api/v1/auth/register", person)
        login = {"username": name, "password": password}
        self._ask((401,), "POST", "/api/v1/auth/login", {**login, "password": "wrong horse"})
        token = self._ask((200,), "POST", "/api/v1/auth/login", login).json["access_token"]
        bearer = self.server.with_headers(Authorization=f"Bearer {token}")
        self._check((200,), "me", bearer.call("GET", "/api/v1/auth/me"))

    def _use_keys(self) -> None:
        login = {"username": self._name, "password": "correct horse"}
        token = self._ask((200,), "POST", "/api/v1/auth/login", login).json["access_token"]
        bearer = self.server.with_headers(Authorization=f"Bearer {token}")
        key = self._check((201,), "key", bearer.call("POST", "/api/v1/api-keys", {"name": "one"}))
        self._check((200,), "keys", bearer.call("GET", "/api/v1/api-keys"))
        other = self.server.with_headers(X_API_Key=key.json["key"])
        self._check((200,), "with a key", other.call("GET", "/api/v1/agents"))
        path = f"/api/v1/api-keys/{key.json['id']}"
        self._check((204,), "revoke", bearer.call("DELETE", path))
        self._check((401,), "revoked", other.call("GET", "/api/v1/agents"))

    # agents and uploads

    def _upload(self, archive: bytes, agent_id: int, *expected: int) -> Answer:
        answer = self._api.upload(agent_id, archive)
        self._check(expected or (201,), "upload", answer)
        if answer.status == 201:
            self.artifacts = [*self.artifacts[-3:], answer.json["tarball_path"]]
        return answer

    def _upload_well(self) -> None:
        if len(self.agents) < _MOST_AGENTS:
            self.agents.append(self._new_agent())
        filler = self._choices.choice((100, 10_000, 2_000_000))
        archive = pack_agent(SOURCE, **{"filler.txt": self._choices.randbytes(filler).hex()})
        self._upload(archive, self._agent)

    def _upload_badly(self) -> None:
        agent_id = self._new_agent()
        manifest = "name: test\nentrypoint: main:handle\n"
        bad: tuple[bytes, ...] = (
            b"no archive",
            pack({"main.py": SOURCE}),
            pack({"anymind.yaml": manifest, "main.py": "handle = ("}),
            pack({"anymind.yaml": manifest, "main.py": "import nowhere"}),
            pack({"anymind.yaml": manifest, "main.py": "while True: pass"}),
            pack({"anymind.yaml": "name: [", "main.py": SOURCE}),
            pack_agent(SOURCE)[:-20],
        )
        self._upload(self._choices.choice(bad), agent_id, 201, 400)
        self._ask((204,), "DELETE", f"/api/v1/agents/{agent_id}")

    def _rename(self) -> None:
        path = f"/api/v1/agents/{self._agent}"
        self._ask((200,), "PATCH", path, {"name": f"renamed {self._choices.random()}"})
        self._ask((200,), "PATCH", path, {"status": "archived"})
        self._ask((200,), "PATCH", path, {"status": "draft"})

    def _delete(self) -> None:
        agent_id = self.agents.pop(self._choices.randrange(len(self.agents)))
        self._ask((204,), "DELETE", f"/api/v1/agents/{agent_id}")
        self.artifacts.clear()

    # bad requests, and clients that are no help

    def _ask_badly(self) -> None:
        self._ask((404,), "GET", "/nowhere")
        self._ask((405,), "PUT", "/api/v1/agents", {})
        self._ask((400,), "POST", "/api/v1/agents", {"name": ""})
        self._ask((400,), "POST", self._execution_path(), body=b'{"payload": ' + b"[" * 5000)
        self._ask((400,), "GET", "/api/v1/agents?limit=none")
        self._ask((404,), "GET", f"/api/v1/agents/{10**30}")
        self._ask((413,), "POST", "/api/v1/agents", body=b" " * 300_000)
        stranger = self.server.with_headers(X_API_Key="anymind_nobody")
        self._check((401,), "stranger", stranger.call("GET", "/api/v1/agents"))
        for raw in (b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00\xff\r\n\r\n"):
            with self._connection() as connection:
                connection.sendall(raw)
                connection.recv(1000)

    def _go_away(self) -> None:
        """Leave in the middle: of the headers, of a body, before the answer, before its end."""
        body = b'{"payload": {"do": "sleep", "seconds": 0.3}}'
        head = self._head("POST", self._execution_path(), len(body))
        upload_type, form = form_file(self._choices.randbytes(200_000), "agent.tar.gz")
        upload = self._head("POST", f"/api/v1/uploads/agent/{self._agent}", len(form), upload_type)
        lists = self._head("GET", "/openapi.json", 0)
        for sent in (head[:30], head + body[:5], head + body, upload + form[:150_000], lists):
            with self._connection() as connection:
                connection.sendall(sent)

    def _be_slow(self) -> None:
        """Send headers in pieces and read the answer in small ones."""
        head = self._head("GET", "/openapi.json", 0)
        with self._connection() as connection:
            for begin in range(0, len(head), 10):
                connection.sendall(head[begin : begin + 10])
                time.sleep(_PACE_SECONDS)
            for _ in range(20):
                connection.recv(500)
                time.sleep(_PACE_SECONDS)

    def _head(
        self, method: str, path: str, length: int, content: str = "application/json"
    ) -> bytes:
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: x",
            f"X-API-Key: {self._api.headers['X-API-Key']}",
            f"Content-Type: {content}",
            f"Content-Length: {length}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    @contextmanager
    def _connection(self) -> Iterator[socket.socket]:
        where = urlsplit(self.server.url)
        # The server may close first: who sends nonsense is told so and cut off.
        with (
            suppress(ConnectionError),
            socket.create_connection(
                (where.hostname or "", where.port or 0), timeout=20
            ) as connection,
        ):
            yield connection
