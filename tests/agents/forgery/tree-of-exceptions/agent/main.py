def handle(payload):
    error = ValueError("leaf")
    for _ in range(1000):
        error = ExceptionGroup("branch", [error, error])
    raise error
