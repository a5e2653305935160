"""The sandbox's stub, with a zygote that keeps one descriptor of each job; see `soak_driver.py`."""

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from anymind_lite.sandbox.in_zygote import main as zygote
from anymind_lite.sandbox.in_zygote import stub

_receive = vars(zygote)["receive_message"]


def _receive_and_keep(control: Any) -> Any:
    message, fds = _receive(control)
    os.dup(fds[0])
    return message, fds


vars(zygote)["receive_message"] = _receive_and_keep
stub.main()
