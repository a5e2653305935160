"""The README's tour: every command of it, run as it stands there against a real server."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.live_server import ROOT, LiveServer
from tests.waiting import DEADLINE_SECONDS

BLOCK = re.compile(
    r"^<!-- run by tests/system/test_readme\.py -->\n```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


@pytest.mark.skipif(not shutil.which("bash") or not shutil.which("curl"), reason="no bash or curl")
def test_the_tour_works_as_written(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(blocks) == 6
    # A server of its own: the shared one ends executions before they can be cancelled.
    with LiveServer(tmp_path / "data") as server:
        done = subprocess.run(
            ["bash", "-e", "-u", "-o", "pipefail", "-c", "\n".join(blocks)],
            cwd=tmp_path,
            env={**os.environ, "ANYMIND_API_URL": server.url},
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert '"detail"' not in said, said
    assert "\nready\n" in said
    assert "Build completed successfully" in said
    assert '"output_data":{"message":"Hello, Ada!"}' in said
    assert '"logs":"greeting Ada\\n"' in said
    assert '"status":"cancelled"' in (tmp_path / "slow.json").read_text(encoding="utf-8")
