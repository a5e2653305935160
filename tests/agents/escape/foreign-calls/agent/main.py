import ctypes
import mmap


def handle(payload):
    # mov eax, 359 (socketpair of i386; here 41 would be socket); int 0x80; ret
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("b867010000bb02000000b90100000031d2cd80c3"))
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    answer = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    return {"tried": ["int 0x80"], "achieved": [f"answered {answer}"]}
