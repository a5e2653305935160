import ctypes
import mmap

ADDRESS = None


def raw(number, *arguments):
    """Call the kernel without the C library, by code that was just written."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    # mov rax, rdi; mov rdi, rsi; mov rsi, rdx; mov rdx, rcx; syscall; ret
    code.write(bytes.fromhex("4889f84889f74889d64889ca0f05c3"))
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    function = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * 4)(address)
    answer = function(number, *arguments, *[0] * (3 - len(arguments)))
    return answer if answer >= 0 else False


def text(words):
    return ctypes.cast(ctypes.c_char_p(words), ctypes.c_void_p).value


ATTACKS = {
    "socket": lambda facts: raw(41, 2, 1, 0),
    "open the key": lambda facts: raw(2, text(facts["secret_key"].encode() + b"\0"), 0, 0),
    "unshare": lambda facts: raw(272, 0x10000000),
    "kill the neighbour": lambda facts: raw(62, facts["neighbour_pid"], 9),
    "trace": lambda facts: raw(101, 16, facts["server_pid"]),
    # With garbage in the half of the register that the kernel does not look at.
    "high half": lambda facts: raw(41, (1 << 32) | 2, (1 << 32) | 1, 0),
    "high half of a signal": lambda facts: raw(62, (1 << 32) | facts["neighbour_pid"], 9),
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
