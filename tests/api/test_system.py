"""What the server tells of itself."""

from dataclasses import replace

import pytest
from flask.testing import FlaskClient

from anymind_lite.backend import Backend
from anymind_lite.sandbox.in_server.probe import sandbox_state
from anymind_lite.sandbox.policy import Tier
from anymind_lite.sandbox.protocol import Ground
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
        assert (answer["can_run"], answer["message"]) == (True, "")
        told = {layer["name"]: layer for layer in answer["layers"]}
        assert [name for name, layer in told.items() if layer["is_on"]] == [
            layer.name for layer in ground.layers if layer.is_on
        ]
        for layer in told.values():
            assert bool(layer["why_off"]) == bool(layer["fix"]) == (not layer["is_on"])

    def test_is_told_to_nobody_else(self, client: FlaskClient) -> None:
        detail(client.get(SANDBOX), 401)
        detail(client.get(SANDBOX, headers={"X-API-Key": "anymind_nonsense"}), 401)


ON_B = Ground(zygote_pid=1, landlock_abi=1, filters_calls=True)
STATES = [
    (ON_B, Tier.C, ""),
    (ON_B, Tier.B, ""),
    (ON_B, Tier.A, "Agents are refused: this machine reaches tier B of the sandbox, and MIN_TIER"),
    (replace(ON_B, error="mount: no"), Tier.C, "Sandbox set-up failed (mount: no)."),
]


@pytest.mark.parametrize(("ground", "min_tier", "message"), STATES)
def test_whether_agents_can_run_follows_from_both_tiers(
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    ground: Ground,
    min_tier: Tier,
    message: str,
) -> None:
    monkeypatch.setattr(backend.sandbox, "_ground", ground)
    monkeypatch.setattr(backend.sandbox, "min_tier", min_tier)
    state = sandbox_state(backend.sandbox)
    assert state.can_run == (not message)
    assert state.message.startswith(message)
    assert (f"MIN_TIER={ground.tier} runs" in state.message) == (min_tier is Tier.A)
