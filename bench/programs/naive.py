"""What one would write first: FastAPI, and a fresh Python for each call. Nothing is walled in.

Run in an environment that has FastAPI. BENCH_AGENTS is a JSON object of folders by name,
BENCH_WRAPPER a JSON list that is put before the child's command.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

_FOLDERS = json.loads(os.environ["BENCH_AGENTS"])
_WRAPPER = json.loads(os.environ["BENCH_WRAPPER"])
_CHILD = str(Path(__file__).with_name("call_once.py"))

app = FastAPI()


class Call(BaseModel):
    """What is posted."""

    payload: Any


@app.post("/execute/{name}")
def execute(name: str, call: Call) -> Any:
    """Call an agent in a Python of its own."""
    command = [*_WRAPPER, sys.executable, _CHILD, _FOLDERS[name]]
    payload = json.dumps(call.payload).encode()
    done = subprocess.run(
        command,
        input=payload,
        capture_output=True,
        timeout=30,
        check=False,
    )
    if done.returncode != 0:
        raise HTTPException(500, done.stderr.decode()[-500:])
    return {"status": "completed", "output_data": json.loads(done.stdout)}
