import ctypes
import os
import sys
import traceback


def texts():
    """Everything that Python was told at its start."""
    yield from [*sys.argv, *sys.orig_argv, *sys.path, os.getcwd(), sys.executable]
    yield from [repr(vars(sys.modules["__main__"])), repr(sys.flags), repr(sys._xoptions)]
    yield from [repr(os.environ), repr(sys.warnoptions), repr(sys.path_importer_cache)]
    yield from [str(getattr(module, "__file__", "")) for module in list(sys.modules.values())]


def command_line(facts):
    """The arguments stand above the stack for as long as the process lives."""
    libc, found = ctypes.CDLL(None), b""
    top = ctypes.c_void_p.in_dll(libc, "__libc_stack_end").value
    end, start = os.pipe()
    while len(found) < 1 << 18:
        count = libc.write(
            start, ctypes.c_void_p(top + len(found)), 4096 - (top + len(found)) % 4096
        )
        if count <= 0:
            break
        found += os.read(end, count)
    return facts["project"].encode() in found or facts["data_dir"].encode() in found


def frames(facts):
    frame = sys._getframe()
    while frame is not None:
        if facts["project"] in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def told(name):
    return lambda facts: any(facts[name] in text for text in texts())


def traceback_of(facts):
    try:
        raise ValueError
    except ValueError as exc:
        return facts["data_dir"] in "".join(traceback.format_exception(exc))


ATTACKS = {
    "the project": told("project"),
    "the data": told("data_dir"),
    "the home": lambda facts: any(t.startswith(facts["home"] + "/.a") for t in texts()),
    "the command line": command_line,
    "its tracebacks": traceback_of,
    "its frames": frames,
    "its link": lambda facts: facts["project"] in os.readlink("/proc/self/exe"),
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
