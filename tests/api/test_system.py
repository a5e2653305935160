"""What the server tells of itself."""

from dataclasses import replace

import pytest
from flask.testing import FlaskClient

from anymind_lite.backend import Backend
from anymind_lite.sandbox.policy import Tier
from anymind_lite.sandbox.protocol import Ground
from anymind_lite.services.system import sandbox_state
from tests.api.conftest import Person, body_of, detail

SANDBOX = "/api/v1/system/sandbox"


class TestSandbox:
    @pytest.mark.parametrize("credential", ["by_key", "bearer"])
    def test_is_told_to_who_is_signed_in(
        self, client: FlaskClient, alice: Person, backend: Backend, credential: str
    ) -> None:
        answer = body_of(client.get(SANDBOX, headers=getattr(alice, credential)))
        ground = backend.sandbox.ground
        assert list(answer) == ["tier", "min_tier", "can_run", "message", "layers"]
        assert (answer["tier"], answer["min_tier"]) == (ground.tier, backend.settings.min_tier)
        assert answer["can_run"] == ground.tier.reaches(Tier(backend.settings.min_tier))
        assert [layer["name"] for layer in answer["layers"] if layer["is_on"]] == [*ground.layers]
        assert all(list(layer) == ["name", "is_on", "note", "fix"] for layer in answer["layers"])

    def test_is_told_to_nobody_else(self, client: FlaskClient) -> None:
        detail(client.get(SANDBOX), 401)
        detail(client.get(SANDBOX, headers={"X-API-Key": "anymind_nonsense"}), 401)


ON_B = Ground(zygote_pid=1, tier=Tier.B)
STATES = [
    (ON_B, Tier.C, True, "Agents run in tier B."),
    (ON_B, Tier.B, True, "Agents run in tier B."),
    (ON_B, Tier.A, False, "Agents are refused: this machine reaches tier B, MIN_TIER is A."),
    (replace(ON_B, error="mount: no"), Tier.C, False, "Sandbox set-up failed (mount: no)."),
]


@pytest.mark.parametrize(("ground", "min_tier", "can_run", "message"), STATES)
def test_whether_agents_can_run_follows_from_both_tiers(
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    ground: Ground,
    min_tier: Tier,
    can_run: bool,
    message: str,
) -> None:
    monkeypatch.setattr(backend.sandbox, "_ground", ground)
    state = sandbox_state(backend.sandbox, min_tier)
    assert state.can_run == can_run
    assert state.message.startswith(message)
    assert (f"MIN_TIER={ground.tier} runs" in state.message) == (not can_run and not ground.error)
