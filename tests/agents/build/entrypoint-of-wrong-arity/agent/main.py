def handle():
    return {}
