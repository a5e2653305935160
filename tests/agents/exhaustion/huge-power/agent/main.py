def handle(payload):
    return {"digits": 9**9**9 % 7}
