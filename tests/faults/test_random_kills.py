"""kill -9 at random instants under mixed load: every promise holds after each.

`ANYMIND_FAULT_KILLS` says how many, `ANYMIND_FAULT_SEED` repeats the wishes of an earlier run.
"""

import os
import random
import signal
import time
from collections.abc import Callable

from tests.faults.conftest import Ground
from tests.faults.load import Load
from tests.faults.rig import Doomed, Inspection, client_of, leftover_processes
from tests.waiting import wait_for

KILLS = int(os.environ.get("ANYMIND_FAULT_KILLS", "12"))
SEED = int(os.environ.get("ANYMIND_FAULT_SEED", "0")) or random.randrange(1, 10**9)
KILLS_OF_ONE_FOLDER = 10
LONGEST_SECONDS = 1.5


def work_and_die(ground: Ground, choices: random.Random, *mutants: str) -> list[str]:
    """Serve under load for a random while, then die; return what answered wrongly."""
    live = Doomed(ground.data, mutants=mutants).live
    try:
        live.start()
        with Load(client_of(live, ground.promises), choices.randrange(10**9)) as load:
            before = len(ground.promises.ends)
            wait_for(lambda: len(ground.promises.ends) > before, "the load to begin")
            # Not for anything to happen: this is the random instant.
            time.sleep(choices.uniform(0, LONGEST_SECONDS))
            live.process.send_signal(signal.SIGKILL)
    finally:
        live.stop(signal.SIGKILL)
    return load.failures


def test_random_kills_lose_nothing_and_leave_nothing(
    new_ground: Callable[[str], Ground],
) -> None:
    print(f"seed {SEED}, {KILLS} kills")
    choices = random.Random(SEED)
    for number in range(KILLS):
        if number % KILLS_OF_ONE_FOLDER == 0:  # all that was ever promised is looked at each time
            ground = new_ground(f"data-{number}")
        failures = work_and_die(ground, choices)
        assert failures == [], f"seed {SEED}, kill {number}"
        found = Inspection(ground.data, ground.promises).run()
        assert found == [], f"seed {SEED}, kill {number}"


def test_an_end_that_overwrites_a_cancel_is_caught(ground: Ground) -> None:
    found: list[str] = []
    for _attempt in range(5):
        work_and_die(ground, random.Random(SEED), "unguarded_finish")
        found += leftover_processes()
        found += Inspection(ground.data, ground.promises.copy(), ("unguarded_finish",)).run()
        if any("execution" in one for one in found):
            return
    raise AssertionError(f"the mutant lives: {found}")
