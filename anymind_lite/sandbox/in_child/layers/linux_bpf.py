"""An assembler for seccomp filters: from a verdict per system call to classic BPF.

Runs in the zygote, once. The filter finds the number of the call by binary search, since the
kernel walks it for every number when it is installed and then knows which calls pass whatever
their arguments (seccomp_cache_prepare in kernel/seccomp.c): those cost nothing afterwards.

Arguments are compared by their low 32 bits alone. That is right for what is compared here: pids,
descriptors' commands, flags and options are `int` to the kernel, which cuts the high half off
before it looks. (test_garbage_in_the_high_half_of_an_argument_changes_nothing)
"""

import struct
from dataclasses import dataclass

# linux/bpf_common.h and linux/filter.h; an instruction is code, jump if true, jump if false, k.
_INSTRUCTION = struct.Struct("=HBBI")
_K_OFFSET = 4
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_FARTHEST_JUMP = 250  # conditional jumps hold 8 bits; two may follow one instruction

# struct seccomp_data of linux/seccomp.h, little-endian: the low half of an argument comes first.
_NUMBER_AT = 0
_ARCHITECTURE_AT = 4
_ARGUMENTS_AT = 16
_ARGUMENT_SIZE = 8

_ALL_BITS = 0xFFFFFFFF

# What a filter answers: linux/seccomp.h.
Verdict = int
ALLOW: Verdict = 0x7FFF0000
KILL_PROCESS: Verdict = 0x80000000

# Stands in a test for the pid of the child, which is known only there.
OWN_PID = -1


def fail_with(error: int) -> Verdict:
    """Return the verdict that answers an errno without making the call."""
    return 0x00050000 | error


@dataclass(frozen=True)
class Test:
    """Whether an argument, after the mask, is one of the values; arguments count from 0."""

    argument: int
    values: tuple[int, ...]
    mask: int = _ALL_BITS


@dataclass(frozen=True)
class Rule:
    """One verdict where all tests hold; elsewhere another, or what another rule says."""

    tests: tuple[Test, ...]
    then: Verdict
    otherwise: "Rule | Verdict"


@dataclass(frozen=True)
class Program:
    """A filter; at each place of `pid_places` (bytes) the child's pid is still to be written."""

    code: bytes
    pid_places: tuple[int, ...]


def assemble(rules: dict[int, Rule | Verdict], *, architecture: int) -> Program:
    """Return the filter that judges a number by the nearest key at or below it; 0 is a key.

    A call of any other architecture kills the process.
    """
    builder = _Builder()
    builder.search(sorted(rules.items()))
    number_is_loaded = builder.emit(_LOAD, _NUMBER_AT)
    builder.branch(
        _JUMP_IF_EQUAL, architecture, yes=number_is_loaded, no=builder.place(KILL_PROCESS)
    )
    builder.emit(_LOAD, _ARCHITECTURE_AT)
    return builder.finish()


class _Builder:
    """Instructions, the last one first, so that every jump goes to a place already known.

    A place is how many instructions there are from it to the end.
    """

    def __init__(self) -> None:
        self._reversed: list[bytes] = []
        self._own_pid: list[int] = []
        self._places: dict[Rule | Verdict, int] = {}

    def emit(self, code: int, k: int, *, if_true: int = 0, if_false: int = 0) -> int:
        """Put one instruction before all others; return its place."""
        self._reversed.append(_INSTRUCTION.pack(code, if_true, if_false, k))
        return len(self._reversed)

    def branch(self, code: int, k: int, *, yes: int, no: int) -> int:
        """Put a conditional jump before all others; return its place."""
        yes, no = self._within_reach(yes), self._within_reach(no)
        here = len(self._reversed)
        return self.emit(code, k, if_true=here - yes, if_false=here - no)

    def _within_reach(self, place: int) -> int:
        distance = len(self._reversed) - place
        return place if distance < _FARTHEST_JUMP else self.emit(_JUMP, distance)

    def search(self, rules: list[tuple[int, Rule | Verdict]]) -> int:
        """Put a binary search for the loaded number before all others; return its place."""
        if len(rules) == 1:
            return self.place(rules[0][1])
        middle = len(rules) // 2
        high = self.search(rules[middle:])
        low = self.search(rules[:middle])
        return self.branch(_JUMP_IF_AT_LEAST, rules[middle][0], yes=high, no=low)

    def place(self, rule: Rule | Verdict) -> int:
        """Return where a rule is judged; rules that are alike share one place."""
        if rule not in self._places:
            self._places[rule] = (
                self._judge(rule) if isinstance(rule, Rule) else self.emit(_RETURN, rule)
            )
        return self._places[rule]

    def _judge(self, rule: Rule) -> int:
        failed = self.place(rule.otherwise)
        place = self.place(rule.then)
        for test in reversed(rule.tests):
            place = self._test(test, yes=place, no=failed)
        return place

    def _test(self, test: Test, *, yes: int, no: int) -> int:
        place = no
        for value in reversed(test.values):
            place = self._compare(value, yes=yes, no=place)
        if test.mask != _ALL_BITS:
            self.emit(_AND, test.mask)
        return self.emit(_LOAD, _ARGUMENTS_AT + _ARGUMENT_SIZE * test.argument)

    def _compare(self, value: int, *, yes: int, no: int) -> int:
        if value != OWN_PID:
            return self.branch(_JUMP_IF_EQUAL, value, yes=yes, no=no)
        self._own_pid.append(self.branch(_JUMP_IF_EQUAL, 0, yes=yes, no=no))
        return self._own_pid[-1]

    def finish(self) -> Program:
        """Return the program, first instruction first."""
        count = len(self._reversed)
        places = tuple(_INSTRUCTION.size * (count - place) + _K_OFFSET for place in self._own_pid)
        return Program(b"".join(reversed(self._reversed)), places)
