import contextlib
import resource

NAMES = [name for name in dir(resource) if name.startswith("RLIMIT_")]


def is_raised(number):
    hard = resource.getrlimit(number)[1]
    if hard == resource.RLIM_INFINITY:
        return False
    for wanted in (hard + 1, hard * 2, resource.RLIM_INFINITY):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(number, (wanted, wanted))
        with contextlib.suppress(ValueError, OSError, AttributeError):
            resource.prlimit(0, number, (wanted, wanted))
    return resource.getrlimit(number)[1] != hard


def handle(payload):
    achieved = [name for name in NAMES if is_raised(getattr(resource, name))]
    return {"achieved": achieved, "tried": NAMES}
