import ctypes
import hashlib
import mmap
import os


def first(action, items):
    """Tell whether an action works on any of the items."""
    for item in items:
        try:
            if action(item) is not False:
                return True
        except OSError:
            pass
    return False


def in_canaries(action):
    def attack(facts):
        return first(lambda pair: is_it(action(pair[0]), pair[1]), facts["canaries"])

    return attack


def is_it(content, digest):
    return hashlib.sha256(content).hexdigest() == digest


def by_descriptor_path(path):
    return read_all(f"/proc/self/fd/{os.open(path, os.O_PATH)}")


def by_mmap(path):
    fd = os.open(path, os.O_RDONLY)
    return mmap.mmap(fd, 0, prot=mmap.PROT_READ)[:]


def by_sendfile(path):
    fd, (end, start) = os.open(path, os.O_RDONLY), os.pipe()
    os.sendfile(start, fd, 0, 4096)
    return os.read(end, 4096)


def by_link(path, link):
    os.path.lexists("link") and os.unlink("link")
    link(path, "link")
    return read_all("link")


def by_library(path):
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    handle = libc.fopen(path.encode(), b"r")
    buffer = ctypes.create_string_buffer(4096)
    count = libc.fread(buffer, 1, 4096, ctypes.c_void_p(handle)) if handle else 0
    return buffer.raw[:count]


def by_steps(path):
    fd = os.open("/", os.O_PATH)
    for name in path.strip("/").split("/")[:-1]:
        fd = os.open(name, os.O_PATH, dir_fd=fd)
    return os.read(os.open(os.path.basename(path), os.O_RDONLY, dir_fd=fd), 4096)


def read_all(path):
    with open(path, "rb") as file:
        return file.read()


ATTACKS = {
    "open": in_canaries(read_all),
    "open a descriptor again": in_canaries(by_descriptor_path),
    "map": in_canaries(by_mmap),
    "sendfile": in_canaries(by_sendfile),
    "hard link": in_canaries(lambda path: by_link(path, os.link)),
    "symbolic link": in_canaries(lambda path: by_link(path, os.symlink)),
    "rename": in_canaries(lambda path: by_link(path, os.rename)),
    "C library": in_canaries(by_library),
    "folder by folder": in_canaries(by_steps),
    "direct": in_canaries(lambda path: os.read(os.open(path, os.O_RDONLY | os.O_NOATIME), 4096)),
}


def handle(payload):
    facts, achieved = payload["facts"], []
    for name, attack in ATTACKS.items():
        try:
            if attack(facts) is not False:
                achieved.append(name)
        except OSError:
            pass
    return {"tried": list(ATTACKS), "achieved": achieved}
