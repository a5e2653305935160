"""What functions-framework serves: the agent in the folder BENCH_AGENT, imported once."""

import importlib
import os
import sys
from typing import Any

from flask import Request, jsonify

sys.path.insert(0, os.environ["BENCH_AGENT"])
_agent = importlib.import_module("main")


def call(request: Request) -> Any:
    """Call the agent with the payload of a request."""
    if request.method == "GET":
        return "alive"
    return jsonify(output_data=_agent.handle(request.get_json()["payload"]))
