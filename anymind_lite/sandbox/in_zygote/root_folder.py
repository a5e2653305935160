"""The file system that the zygote and all children see: Python, a few devices, and no more.

Runs in the stub, before the zygote is forked. The root is a small tmpfs; on it stand read-only
binds of what Python needs, at the paths where Python looks for them, and of all unpacked code.
There is no /proc, /sys, /run, /tmp, home or shell. What stands here is found by looking at the
Python that runs: Debian's, one of pyenv or uv, or a container image's.
"""

import os
import sys

from anymind_lite.sandbox.in_child.layers import linux_calls as linux
from anymind_lite.sandbox.protocol import AGENT_DIR, CODE_PARENT, INNER_GID, INNER_UID, SCRATCH_DIR

# Any folder of every Linux that nothing else here is taken from: the new root is built on it.
_BUILDING_SITE = "/sys"
_ROOT_OPTIONS = "size=8m,nr_inodes=1k,mode=0755"
_DEVICES = ("null", "zero", "full", "random", "urandom")
_DATA = ("/usr/share/zoneinfo", "/usr/lib/locale/C.utf8")
_COPIED = ("/etc/ld.so.cache", "/etc/localtime")
# Packages of the host's Python: not importable by an agent (-S), and none of its business.
_NOT_OURS = ("site-packages", "dist-packages")
_WRITTEN = {
    "etc/passwd": f"agent:x:{INNER_UID}:{INNER_GID}::{SCRATCH_DIR}:/bin/false\n",
    "etc/group": f"agent:x:{INNER_GID}:\n",
}
_QUIET = linux.MS_NOSUID | linux.MS_NODEV


def find_runtime() -> list[str]:
    """Return the files and folders that Python needs, as Python names them.

    Call it while the host's file system and /proc are in view.
    """
    multiarch = getattr(sys.implementation, "_multiarch", "none")
    parents = ("/lib64", "/usr/lib64", f"/lib/{multiarch}", f"/usr/lib/{multiarch}")
    folders = {folder for folder in parents if os.path.isdir(folder)}
    known = {os.path.realpath(folder) for folder in folders}
    for library in _mapped_libraries():
        folder = os.path.dirname(library)
        if folder in ("/lib", "/usr/lib"):  # Arch, Alpine
            folders.add(folder)
        elif folder not in known:  # such as a shared libpython: its neighbours are not needed
            folders.add(library)
    standard_library = [path for path in sys.path if os.path.exists(path)]
    return [*standard_library, _executable(), *folders, *filter(os.path.exists, _DATA)]


def _executable() -> str:
    return os.path.realpath(sys.executable)


def _mapped_libraries() -> set[str]:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        paths = {line.rstrip("\n").partition("/")[2] for line in file}
    return {"/" + path for path in paths if ".so" in os.path.basename(path)}


def enter_new_root(runtime: list[str], code_dir: str, *, is_last: bool) -> None:
    """Build the root in this mount namespace and make it this namespace's only file system.

    A root server does it twice: once as root, so that what is closed to the sandbox's user is in
    its reach, and again inside the user namespace, where what was mounted before is locked and
    could not be taken away from a child (mount_namespaces(7)). Raises OSError.
    """
    copied = {path: content for path in _COPIED if (content := _content(path))}
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    code = os.open(code_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    linux.mount("root", _BUILDING_SITE, "tmpfs", _QUIET | linux.MS_NOEXEC, _ROOT_OPTIONS)
    os.fchdir(code)  # it may lie below what was just covered
    os.close(code)
    root = _BUILDING_SITE
    for folder in (CODE_PARENT, AGENT_DIR, SCRATCH_DIR, "/dev", "/etc"):
        os.makedirs(root + folder)
    _bind(".", root + CODE_PARENT)
    for name in _DEVICES:
        _bind_file(f"/dev/{name}", f"{root}/dev/{name}", linux.MS_NOSUID | linux.MS_NOEXEC)
    _show_runtime(root, runtime)
    for path, content in copied.items():
        _write(root + path, content)
    if is_last:
        _hide_packages(root, runtime)
        for name, text in _WRITTEN.items():
            _write(f"{root}/{name}", text.encode())
    else:
        os.mkdir(root + _BUILDING_SITE)
    _restrict(root, _QUIET | linux.MS_NOEXEC)
    os.chdir(root)
    linux.pivot_root(".", ".")
    linux.detach(".")
    os.chdir("/")


def top_folders() -> tuple[str, ...]:
    """Return the folders of the new root that every run may read, each once."""
    own = {CODE_PARENT, AGENT_DIR, os.path.dirname(SCRATCH_DIR)}
    paths = {os.path.realpath(f"/{name}") for name in os.listdir("/") if f"/{name}" not in own}
    return tuple(sorted(paths))


def _show_runtime(root: str, paths: list[str]) -> None:
    """Bind every path where it really stands, and link to it where Python looks for it."""
    shown: list[str] = []
    for real in sorted({os.path.realpath(path) for path in paths}):
        if not any(real.startswith(parent + "/") for parent in shown):
            _bind(real, root + real) if os.path.isdir(real) else _bind_file(real, root + real)
            shown.append(real)
    for path in sorted(set(paths)):
        # A parent that is a link itself shows the path already.
        if path != os.path.realpath(path) and not _leads_through_link(root, path):
            os.makedirs(root + os.path.dirname(path), exist_ok=True)
            os.symlink(os.path.realpath(path), root + path)


def _leads_through_link(root: str, path: str) -> bool:
    while path != "/":
        if os.path.islink(root + path):
            return True
        path = os.path.dirname(path)
    return False


def _hide_packages(root: str, runtime: list[str]) -> None:
    for path in runtime:
        for name in _NOT_OURS:
            folder = f"{root}{os.path.realpath(path)}/{name}"
            if os.path.isdir(folder):
                _bind(root + AGENT_DIR, folder)  # an empty folder


def _bind(source: str, target: str, flags: int = _QUIET) -> None:
    """Show a folder read-only; what is mounted below it on the host stays out."""
    os.makedirs(target, exist_ok=True)
    _mount_read_only(source, target, flags)


def _bind_file(source: str, target: str, flags: int = _QUIET) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    _write(target, b"")
    _mount_read_only(source, target, flags)


def _mount_read_only(source: str, target: str, flags: int) -> None:
    linux.mount(source, target, "", linux.MS_BIND)
    _restrict(target, flags)


def _restrict(target: str, flags: int) -> None:
    """Make one mount read-only. Flags that are locked by an outer namespace must be repeated."""
    locked = os.statvfs(target).f_flag & (_QUIET | linux.MS_NOEXEC)
    every = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | flags | locked
    linux.mount("none", target, "", every)


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
