import ctypes

PIECE = 1 << 20


def handle(payload):
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    taken = 0
    while taken < 2000 and (address := libc.malloc(PIECE)):
        ctypes.memset(address, 1, PIECE)
        taken += 1
    tried = ["more_than_256_mb"]
    return {"achieved": tried if taken > 256 else [], "tried": tried, "taken_mb": taken}
