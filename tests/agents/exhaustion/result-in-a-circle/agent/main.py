def handle(payload):
    value = {"achieved": []}
    value["self"] = value
    return value
