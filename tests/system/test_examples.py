"""Every example agent, packed as its README says and called through the public API."""

import json
from pathlib import Path

import pytest

from tests.live_server import ROOT, Api, pack_folder

EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/anymind.yaml"))


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_example_gives_its_expected_output(api: Api, folder: Path) -> None:
    payload = json.loads((folder / "payload.json").read_text(encoding="utf-8"))
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    agent_id = api.deploy(pack_folder(folder), folder.name)
    execution = api.execute(agent_id, payload).json
    assert execution["error_message"] is None
    assert execution["output_data"] == expected


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
