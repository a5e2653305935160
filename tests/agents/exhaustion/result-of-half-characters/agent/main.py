def handle(payload):
    return {"achieved": [], "\udcff": "\ud800"}
