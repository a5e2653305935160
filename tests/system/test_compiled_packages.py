"""An archive that brings NumPy and pandas: uploaded, built and run like any other."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.live_server import LiveServer, pack_folder

MAIN = """
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "vendor"))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy
import pandas


def handle(payload):
    table = pandas.DataFrame(payload["sales"], columns=["town", "amount"])
    table["at"] = pandas.date_range("2024-03-30", periods=len(table), tz="Europe/Berlin")
    matrix = numpy.array([[2.0, 1.0], [1.0, 3.0]])
    random = numpy.random.default_rng(1).random((200, 200))
    u, s, vt = numpy.linalg.svd(random)
    table.to_csv("table.csv")
    return {
        "towns": table.groupby("town")["amount"].sum().to_dict(),
        "solved": numpy.linalg.solve(matrix, numpy.array([3.0, 5.0])).round(9).tolist(),
        "decomposed": bool(numpy.allclose((u * s) @ vt, random)),
        "read_again": int(pandas.read_csv("table.csv")["amount"].sum()),
        "offset": str(table["at"].iloc[-1].utcoffset()),
    }
"""
SALES = [["Ulm", 1], ["Bonn", 5], ["Ulm", 2]]


def install(folder: Path, *packages: str) -> None:
    """Install packages into a folder, as docs/sandbox.md tells an agent's author to."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    options = ["--no-compile", "--only-binary", ":all:", "--target", str(folder)]
    subprocess.run([*pip, *options, *packages], check=True, timeout=300)


@pytest.mark.slow
@pytest.mark.network
def test_numpy_and_pandas_run_from_the_archive_with_the_default_limits(tmp_path: Path) -> None:
    pytest.importorskip("pip")  # an environment that uv made has none
    code = tmp_path / "code"
    # With time zones, as a machine may have none to show to agents.
    install(code / "vendor", "numpy", "pandas", "tzdata")
    (code / "anymind.yaml").write_text("name: test\nentrypoint: main:handle\n", encoding="utf-8")
    (code / "main.py").write_text(MAIN, encoding="utf-8")
    with LiveServer(tmp_path / "data") as live:
        api = live.api.new_user("analyst")
        execution = api.execute(api.deploy(pack_folder(code)), {"sales": SALES}).json
    assert execution["error_message"] is None, execution["logs"]
    assert execution["output_data"] == {
        "towns": {"Ulm": 3, "Bonn": 5},
        "solved": [0.8, 1.4],
        "decomposed": True,
        "read_again": 8,
        "offset": "2:00:00",
    }
