def handle(payload):
    return {"achieved": [], (1, 2): b"3", object(): {4}}
