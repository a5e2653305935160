"""What a job may use, as plain data that every side of the sandbox can read."""

from dataclasses import dataclass
from enum import StrEnum

MEGABYTE = 1024 * 1024
# What a run touches of the interpreter's own pages, with room to spare.
_PYTHON_BYTES = 32 * MEGABYTE


class Tier(StrEnum):
    """How strong the walls around a job are; A is the strongest.

    A: namespaces and filtered system calls. B: filtered system calls and Landlock. C: neither pair
    is whole, so an agent is kept from accidents alone.
    """

    A = "A"
    B = "B"
    C = "C"

    def reaches(self, least: "Tier") -> bool:
        """Tell whether this is `least` or stronger."""
        return self.value <= least.value


@dataclass(frozen=True)
class Limits:
    """The numbers that end a job, or keep it small.

    `wall_seconds` is kept outside the child; `cpu_seconds`, `address_space_bytes`, `data_bytes`,
    `file_bytes` (the largest file) and `open_files` are rlimits (setrlimit(2)). Of what the agent
    prints `log_kept_bytes` are kept, half from the head and half from the tail, and more than
    `log_written_bytes` ends the job. A report is at most `report_bytes`. The scratch folder holds
    `scratch_bytes` in `scratch_files` files and folders. `processes` counts the run's processes and
    threads together, exactly in namespaces alone.
    """

    wall_seconds: float = 30.0
    cpu_seconds: int = 31
    address_space_bytes: int = 1024 * MEGABYTE
    data_bytes: int = 256 * MEGABYTE
    file_bytes: int = 32 * MEGABYTE
    open_files: int = 64
    log_kept_bytes: int = 64 * 1024
    log_written_bytes: int = 16 * MEGABYTE
    report_bytes: int = MEGABYTE
    scratch_bytes: int = 64 * MEGABYTE
    scratch_files: int = 4096
    processes: int = 64

    @property
    def run_bytes(self) -> int:
        """The most memory of all processes of a run together, its scratch folder included."""
        return self.data_bytes + self.scratch_bytes + _PYTHON_BYTES
