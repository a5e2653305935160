from tests.agents.tar_parts import MANIFEST, header, member, packed

SOURCE = b"""
import os, stat
from pathlib import Path


def handle(payload):
    here = Path(__file__).parent
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in sorted(here.rglob("*"))}
    achieved = [name for name, mode in modes.items() if mode & 0o7022]
    return {"achieved": achieved, "tried": list(modes)}
"""


def build() -> bytes:
    return packed(
        member("anymind.yaml", MANIFEST, mode=0),
        member("main.py", SOURCE, mode=0o7777),
        header("run", mode=0o6755, owner=0),
        header("sticky/", kind=b"5", mode=0o3777),
        header("closed/", kind=b"5", mode=0),
    )
