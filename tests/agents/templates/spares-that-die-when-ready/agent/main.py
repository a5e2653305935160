import takeover

takeover.after_import(lambda channel: takeover.serve(channel, takeover.become_spare))


def handle(payload):
    return {"tried": ["die"], "achieved": []}
