"""The stub: what the server starts. It makes the namespaces and watches over the zygote in them.

Runs as a process of its own, started by path (`python -I -S stub.py FD WHY_NO_CGROUPS`) with an
empty environment, its working folder the parent of all unpacked code. It tries in throw-away
children what the machine offers, tells the server, and forks the zygote as process 1 of a pid
namespace, whose end is the end of every process in it. Without namespaces it becomes the zygote
itself.
"""

import gc
import os
import select
import signal
import site
import socket
import sys
from dataclasses import replace

_PROJECT_DIR = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
if __name__ == "__main__":
    sys.path.insert(0, _PROJECT_DIR)  # -I leaves the script's folder out; removed before serving

from anymind_lite.sandbox.in_child.cloning import find_thread_id_place
from anymind_lite.sandbox.in_child.layers import linux_calls as linux
from anymind_lite.sandbox.in_child.main import Birth, child_main
from anymind_lite.sandbox.in_zygote.ground import find_ground, walls_of
from anymind_lite.sandbox.in_zygote.main import serve
from anymind_lite.sandbox.in_zygote.spaces import enter_namespaces
from anymind_lite.sandbox.protocol import Ground, encode_ground, send_message


def main() -> None:
    """Be the stub, the zygote, and in the end each child.

    All of them return to here: a child has the frames of nobody else below its own.
    (test_agent_finds_nothing_of_the_zygote)
    """
    birth = _serve()
    if birth is not None:
        child_main(birth)


def _serve() -> Birth | None:
    """Find out what there is, and serve on the strongest ground."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    why_no_cgroups = sys.argv[2]
    sys.path.remove(_PROJECT_DIR)
    sys.argv, sys.orig_argv = [""], [""]  # where the server is installed is no agent's business
    sys.executable = os.path.realpath(sys.executable)  # of an environment, a link to elsewhere
    site.setquit()  # -S leaves out exit() and quit(), which people's code calls
    _hear_all_signals()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # only the server's hang-up ends it
    ground = find_ground(why_no_cgroups)
    # Outside of any `except`: an agent's traceback would show what was being handled.
    if ground.error:
        _tell(control, ground)
        select.select([control], [], [])  # until the server hangs up: it refuses every job itself
        return None
    if ground.has_namespaces:
        return _serve_in_namespaces(control, ground)
    walls = walls_of(ground)
    _tell(control, ground)
    os.chdir("/")
    return serve(control, walls)


def _hear_all_signals() -> None:
    """Put back what the server may have been started with, as in the background of a shell.

    An ignored signal stays ignored in all that is forked (signal(7)). Python ignores two by itself.
    """
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _tell(control: socket.socket, ground: Ground) -> None:
    send_message(control, encode_ground(ground))


def _serve_in_namespaces(control: socket.socket, ground: Ground) -> Birth | None:
    thread_id_place = find_thread_id_place()
    proc_fd = enter_namespaces()
    walls = walls_of(ground)
    stub = os.pidfd_open(os.getpid())
    # Before the fork: to look for garbage is to write to every object, which copies its page.
    gc.collect()
    gc.freeze()
    zygote = os.fork()
    if zygote == 0:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if select.select([stub], [], [], 0)[0]:
            os._exit(0)  # the stub died before that line
        os.close(stub)
        birth = serve(control, walls, proc_fd=proc_fd, thread_id_place=thread_id_place)
        if birth is None:
            os._exit(0)
        return birth
    os.close(stub)
    os.close(proc_fd)
    _tell(control, replace(ground, zygote_pid=zygote))
    sys.exit(_watch(control, zygote))


def _watch(control: socket.socket, zygote: int) -> int:
    """Wait for the zygote's end, or end it when the server hangs up; return its exit code."""
    pidfd = os.pidfd_open(zygote)
    poller = select.poll()
    poller.register(control, 0)  # the hang-up alone: jobs are for the zygote
    poller.register(pidfd, select.POLLIN)
    poller.poll()
    os.kill(zygote, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(zygote, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    main()
