def other(payload):
    return {}
