def handle(payload):
    raise KeyboardInterrupt("nobody pressed it")
