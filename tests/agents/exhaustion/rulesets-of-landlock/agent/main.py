import ctypes

libc = ctypes.CDLL(None, use_errno=True)
CREATE_RULESET, ADD_RULE = 444, 445


def handle(payload):
    attributes = (ctypes.c_uint64 * 3)(0, 3, 0)
    ruleset = libc.syscall(CREATE_RULESET, attributes, 16, 0)
    rule = (ctypes.c_uint64 * 2)(3, 443)
    added = ruleset >= 0 and libc.syscall(ADD_RULE, ruleset, 2, rule, 0) == 0
    achieved = ["ruleset"] * (ruleset >= 0) + ["rule"] * added
    return {"tried": ["ruleset", "rule"], "achieved": achieved}
