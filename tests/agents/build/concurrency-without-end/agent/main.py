def handle(payload):
    return {"achieved": [], "tried": ["call"]}
