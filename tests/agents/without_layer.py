"""Starts the server with layers of its sandbox switched off: `without_layer.py NAMES serve ...`.

NAMES is a list with commas between. Product code stays as it is: the server starts another stub,
which takes the layers out of the table and then goes on as the product's own. "mounts" is also
what brings the code into view, so of that only the hiding of everybody else's code goes; of
"environment" the scratch folder stays the working folder.
"""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

STUB = """
import dataclasses, os, sys
sys.path.insert(0, {root!r})
from anymind_lite.sandbox.in_child import layers
from anymind_lite.sandbox.in_child.layers import linux_namespaces

def only_show(confinement):
    real = linux_namespaces.linux.detach
    linux_namespaces.linux.detach = lambda target: None
    try:
        linux_namespaces.own_mounts(confinement)
    finally:
        linux_namespaces.linux.detach = real

def only_enter(confinement):
    os.chdir(confinement.scratch_dir)

# What these layers do besides: nothing would run without it.
REST = dict(mounts=only_show, environment=only_enter)

def kept(layer):
    if layer.name not in {names!r}:
        return [layer]
    if layer.name in REST:
        return [dataclasses.replace(layer, apply=REST[layer.name])]
    return []

layers.LAYERS = tuple(one for layer in layers.LAYERS for one in kept(layer))
from anymind_lite.sandbox.in_zygote import stub
sys.path.insert(0, stub._PROJECT_DIR)
sys.path.remove({root!r})
stub.main()
"""


def main() -> None:
    """Be the server's command line, with another stub."""
    names, sys.argv[1:] = sys.argv[1].split(","), sys.argv[2:]
    sys.path.insert(0, str(ROOT))
    from anymind_lite.cli import main as command_line
    from anymind_lite.sandbox.in_server import supervisor

    with tempfile.TemporaryDirectory() as folder:
        stub = Path(folder, "stub.py")
        stub.write_text(STUB.format(root=str(ROOT), names=names), encoding="utf-8")
        os.chmod(folder, 0o755)
        supervisor._STUB_PATH = stub
        command_line()


if __name__ == "__main__":
    main()
