"""Holds the architecture's import rules: each file imports only from rungs below its own."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "anymind_lite"

# Top first. A module belongs to the longest prefix that fits; the modules of one rung may import
# each other. docs/architecture.md draws the same.
LADDER = (
    ("cli",),
    ("app",),
    ("routes",),
    ("backend",),
    ("services",),
    ("models", "storage", "tasks", "sandbox.in_server", "reader"),
    (
        "archive",
        "backup_file",
        "manifest",
        "database",
        "config",
        "credentials",
        "sandbox.protocol",
    ),
    ("setting_kinds", "files", "strict_json", "sandbox.policy"),
    ("errors", "clock", "group_commit"),
)

# In the sandbox the rungs are processes: what runs in the child knows nothing of the others.
SANDBOX_IMPORTS = {
    "sandbox.in_server": ("sandbox.in_server", "sandbox.protocol", "sandbox.policy"),
    "sandbox.in_zygote": (
        "sandbox.in_zygote",
        "sandbox.in_child",
        "sandbox.protocol",
        "sandbox.policy",
    ),
    "sandbox.in_child": ("sandbox.in_child", "sandbox.protocol", "sandbox.policy"),
    "sandbox.protocol": ("sandbox.policy",),
    "sandbox.policy": (),
}

# The reader's processes shut themselves in with the layers of a child.
READER_ROOMS = ("reader.in_reader", "reader.in_reading")

# What each library's one owner is; nobody else imports it.
OWNERS = {
    "flask": ("app", "routes"),
    "flask_smorest": ("routes",),
    "flask_cors": ("app",),
    "marshmallow": ("routes",),
    "huey": ("tasks",),
    "waitress": ("cli",),
    "yaml": ("manifest",),
    "tarfile": ("cli",),
    "peewee": ("database", "models", "services", "migrations", "routes._errors"),
    "playhouse": ("database",),
    "click": ("cli",),
    "jwt": ("credentials",),
    "bcrypt": ("credentials",),
    "dotenv": ("config",),
}

MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if "vendor" not in path.parts and path.stat().st_size
)


def name_of(path: Path) -> str:
    """Return a module's name below the package, "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Return the full names of all modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def fits(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def ours(path: Path) -> set[str]:
    """Return the names below the package that a file imports, without what is only for types."""
    prefix = "anymind_lite."
    return {name.removeprefix(prefix) for name in runtime_imports(path) if name.startswith(prefix)}


@cache
def runtime_imports(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for inner in ast.walk(node):
                if isinstance(inner, ast.ImportFrom):
                    hidden |= {f"{inner.module}.{alias.name}" for alias in inner.names}
    return frozenset(imports_of(path) - hidden)


def rung_of(name: str) -> int | None:
    best: tuple[int, int] | None = None
    for index, rung in enumerate(LADDER):
        for prefix in rung:
            if fits(name, prefix) and (best is None or len(prefix) > best[0]):
                best = (len(prefix), index)
    return None if best is None else best[1]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_only_from_its_rung_or_below(path: Path) -> None:
    name = name_of(path)
    own = rung_of(name)
    if own is None:
        assert name == "" or name.startswith(("sandbox", "migrations")), f"{name} has no rung"
        return
    for imported in ours(path):
        if imported.startswith("sandbox.in_child") and name in READER_ROOMS:
            continue
        theirs = rung_of(imported)
        if theirs is None:
            assert imported == "__version__", f"{name} imports {imported}"
        else:
            assert theirs >= own, f"{name} imports {imported} from above"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_sandbox_rooms_keep_apart(path: Path) -> None:
    name = name_of(path)
    room = next((one for one in SANDBOX_IMPORTS if fits(name, one)), None)
    for imported in ours(path):
        if room is None:
            own = "sandbox.in_child.layers" if name in READER_ROOMS else "sandbox.in_server"
            allowed = imported.startswith((own, "sandbox.protocol", "sandbox.policy"))
            assert allowed or not imported.startswith("sandbox"), f"{name} imports {imported}"
        elif imported.startswith("sandbox"):
            is_allowed = any(fits(imported, one) for one in SANDBOX_IMPORTS[room])
            assert is_allowed, f"{name} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_each_library_has_its_owner(path: Path) -> None:
    name = name_of(path)
    for imported in imports_of(path):
        owners = OWNERS.get(imported.split(".")[0])
        if owners is not None:
            assert any(fits(name, owner) for owner in owners), f"{name} imports {imported}"


@pytest.mark.parametrize("path", [path for path in MODULES if "sandbox" in path.parts], ids=name_of)
def test_sandbox_uses_the_standard_library_alone(path: Path) -> None:
    import sys

    for imported in imports_of(path):
        top = imported.split(".")[0]
        assert top in sys.stdlib_module_names or top == "anymind_lite", imported


def test_the_server_never_imports_what_reads_uploads() -> None:
    """It may know their types, but not call them: it starts the reader by its file's path."""
    hostile = {"archive.unpack_archive", "archive.is_tar_gz", "manifest.load_manifest"}
    for path in MODULES:
        if name_of(path) not in READER_ROOMS:
            assert not ours(path) & hostile, path
            assert not any(fits(one, room) for one in ours(path) for room in READER_ROOMS), path


def test_zygote_and_child_import_nothing_of_the_server() -> None:
    for path in MODULES:
        if name_of(path).startswith(("sandbox.in_zygote", "sandbox.in_child", "sandbox.p")):
            assert {name for name in ours(path) if not name.startswith("sandbox")} == set()
