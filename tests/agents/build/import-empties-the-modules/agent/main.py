import importlib
import sys

sys.meta_path.clear()
sys.path_hooks.clear()
importlib.import_module = None
sys.modules.clear()


def handle(payload):
    return {"achieved": [], "tried": ["call"]}
