import atexit
import builtins
import decimal
import json
import locale
import os
import random
import resource
import signal
import sys
import threading

MARK = "hostile-mark"


def found():
    """Return what an earlier run has left in this process."""
    checks = {
        "module": hasattr(json, "hostile"),
        "builtins": hasattr(builtins, "hostile"),
        "environment": MARK in os.environ,
        "modules": MARK in sys.modules,
        "path": MARK in sys.path,
        "patched": json.dumps({}) != "{}",
        "signal": signal.getsignal(signal.SIGUSR1) != signal.SIG_DFL,
        "mask": bool(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timer": signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0),
        "umask": os.umask(0o077) != 0o077,
        "nice": os.nice(0) != 0,
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 20,
        "folder": MARK in os.getcwd(),
        "threads": threading.active_count() != 1,
        "decimal": decimal.getcontext().prec == 5,
        "recursion": sys.getrecursionlimit() == 777,
        "trace": sys.gettrace() is not None,
        "locale": locale.setlocale(locale.LC_ALL) == MARK,
        "random": random.getstate() == random.Random(1).getstate(),
        # One's own, or the template's: not the zygote's, whose number is 0 from in here.
        "group": os.getpgid(0) == 0 or os.getpgid(0) != os.getsid(0),
    }
    return [name for name, is_found in checks.items() if is_found]


def leave():
    json.hostile = builtins.hostile = True
    os.environ[MARK] = "1"
    sys.modules[MARK] = sys
    sys.path.append(MARK)
    real, json.dumps = json.dumps, lambda *arguments, **options: "hostile"
    json.dumps = real if os.getpid() == 0 else json.dumps
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    signal.setitimer(signal.ITIMER_REAL, 100)
    os.umask(0)
    os.nice(3)
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    os.mkdir(MARK)
    os.chdir(MARK)
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    decimal.getcontext().prec = 5
    sys.setrecursionlimit(777)
    random.seed(1)
    atexit.register(print, MARK)
    sys.settrace(lambda *_: None)


def handle(payload):
    achieved = found()
    leave()
    return {"tried": ["leave", "find"], "achieved": achieved}
