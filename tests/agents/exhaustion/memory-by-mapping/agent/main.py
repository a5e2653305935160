import mmap
import os

PIECE = 32 << 20
MAP_NORESERVE = 0x4000


def take(make):
    taken = []
    try:
        while len(taken) * PIECE < 4 << 30:
            taken.append(make())
    except (OSError, ValueError, MemoryError):
        pass
    return len(taken) * PIECE


def of_scratch():
    with open("map", "w+b") as file:
        file.truncate(PIECE)
        return mmap.mmap(file.fileno(), PIECE)


def of_memory_file():
    descriptor = os.memfd_create("hoard")
    os.truncate(descriptor, PIECE)
    return mmap.mmap(descriptor, PIECE)


KINDS = {
    "private": lambda: mmap.mmap(-1, PIECE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
    "shared": lambda: mmap.mmap(-1, PIECE),
    "no_reserve": lambda: mmap.mmap(
        -1, PIECE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    ),
    "read_only": lambda: mmap.mmap(-1, PIECE, prot=mmap.PROT_READ),
    "file": of_scratch,
    "memory_file": of_memory_file,
}


def handle(payload):
    taken = {name: take(make) for name, make in KINDS.items()}
    # No kind gives more than the address space that a run has, and memory files are not to be had.
    achieved = [name for name, size in taken.items() if size > 1 << 30]
    achieved += ["memory_file"] if taken["memory_file"] else []
    return {"achieved": achieved, "tried": list(KINDS), "taken": taken}
