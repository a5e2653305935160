import importlib.util
import marshal
import sys

from tests.agents.tar_parts import agent, member, packed

CODE = compile(
    "def handle(payload): return {'achieved': ['bytecode'], 'tried': ['bytecode']}",
    "main.py",
    "exec",
)
# Flags 0b01: unchecked, by hash (PEP 552); so that no time has to be right.
PYC = importlib.util.MAGIC_NUMBER + b"\1\0\0\0" + bytes(8) + marshal.dumps(CODE)
TAG = sys.implementation.cache_tag


def build() -> bytes:
    return packed(
        agent(),
        member(f"__pycache__/main.{TAG}.pyc", PYC),
        member(f"__PYCACHE__/main.{TAG}.pyc", PYC),
        member("main.pyc", PYC),
    )
