import os
import signal


def shoot(number):
    def attack(facts):
        os.kill(1, number)
        return os.getppid() not in (0, 1)  # only its end would count

    return attack


# SIGKILL alone where process 1 is the machine's: the kernel does not hear it there.
MINE = os.getpid() == 2
ATTACKS = {
    f"signal {number}": shoot(number)
    for number in sorted(signal.valid_signals())
    if MINE or number == signal.SIGKILL
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
