import json
import sys

LOADED = [name for name in ("sitecustomize", "usercustomize") if name in sys.modules]
SHADOWS = ("json", "os", "encodings", "types", "re", "struct", "traceback", "inspect")


def handle(payload):
    import encodings
    import inspect
    import os
    import traceback

    hidden = [
        one.__name__ for one in (json, os, encodings, inspect, traceback) if hasattr(one, "HOSTILE")
    ]
    ran = [name for name in ("HOSTILE_STARTED",) if name in os.environ]
    return {"achieved": LOADED + hidden + ran, "tried": ["sitecustomize", "pth", *SHADOWS]}
