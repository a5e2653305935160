import ctypes
import gc
import mmap
import os
import re

libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
PAGE = 4096
WANTED = re.compile(rb"canary [0-9a-f]{32}|HOSTILE_SECRET_[I]N")
MOST = 64 << 20


def pages(address):
    """Yield what can be read downwards from an address; the kernel tells without a crash."""
    end, start = os.pipe()
    address -= address % PAGE
    for _ in range(MOST // PAGE):
        address -= PAGE
        if libc.write(start, ctypes.c_void_p(address), PAGE) != PAGE:
            return
        yield os.read(end, PAGE)


def holds_secret(address):
    return any(WANTED.search(page) for page in pages(address))


def fresh_memory(facts):
    blocks = [ctypes.create_string_buffer(1 << 20) for _ in range(8)]
    libc.malloc.restype = ctypes.c_void_p
    raw = [
        ctypes.string_at(libc.malloc(ctypes.c_size_t(size)), size)
        for size in [512, 4096, 100_000] * 50
    ]
    return any(WANTED.search(one) for one in [*raw, *(block.raw for block in blocks)])


ATTACKS = {
    "heap": lambda facts: holds_secret(libc.sbrk(0)),
    "arenas": lambda facts: any(
        holds_secret(id(one) + (1 << 18)) for one in gc.get_objects()[::5000]
    ),
    "stack": lambda facts: holds_secret(ctypes.c_void_p.in_dll(libc, "__libc_stack_end").value),
    "fresh memory": fresh_memory,
    "mapped memory": lambda facts: any(mmap.mmap(-1, 1 << 20)[:]),
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
