"""The quickstart says what keeps it from running an agent."""

import pytest

from anymind_lite.cli.quickstart import QuickstartFailed, require_sandbox


def test_a_machine_that_refuses_agents_is_told_in_the_servers_words() -> None:
    with pytest.raises(QuickstartFailed, match="MIN_TIER=C runs those that you trust"):
        require_sandbox({"can_run": False, "message": "MIN_TIER=C runs those that you trust."})


def test_a_machine_that_runs_agents_is_no_reason_to_stop() -> None:
    require_sandbox({"can_run": True, "message": "Agents run in tier A."})
