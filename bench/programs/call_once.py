"""Imports the agent in a folder, calls it with the JSON of stdin, and writes its result as JSON."""

import importlib
import json
import sys


def main() -> None:
    """Call the agent once."""
    payload = json.load(sys.stdin)
    sys.path.insert(0, sys.argv[1])
    json.dump(importlib.import_module("main").handle(payload), sys.stdout)


main()
