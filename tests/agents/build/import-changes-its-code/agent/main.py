import os
import shutil
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
BEFORE = Path(__file__).read_bytes()
ATTACKS = {
    "write": lambda: Path(__file__).write_text("def handle(payload): return {}"),
    "append": lambda: open(__file__, "ab").write(b"\n#"),
    "truncate": lambda: os.truncate(__file__, 0),
    "delete": lambda: os.unlink(__file__),
    "rename": lambda: os.rename(FOLDER / "anymind.yaml", FOLDER / "hostile-other"),
    "add": lambda: (FOLDER / "hostile-json.py").write_text("1"),
    "folder": lambda: os.mkdir(FOLDER / "hostile-folder"),
    "link": lambda: os.symlink("/", FOLDER / "hostile-link"),
    "mode": lambda: os.chmod(__file__, 0o666),
    "time": lambda: os.utime(__file__, (0, 0)),
    "delete_all": lambda: shutil.rmtree(FOLDER),
    "rename_all": lambda: os.rename(FOLDER, f"{FOLDER}-hostile"),
}


def look():
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        status = path.stat()
        found[str(path)] = (path.read_bytes(), status.st_mode, status.st_mtime)
    return found


def succeeded(name):
    before = look()
    try:
        ATTACKS[name]()
    except OSError:
        pass
    return look() != before


sys.dont_write_bytecode = False
ACHIEVED = [name for name in ATTACKS if succeeded(name)]


def handle(payload):
    return {"achieved": ACHIEVED, "tried": list(ATTACKS)}
