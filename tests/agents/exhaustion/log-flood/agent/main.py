def handle(payload):
    while True:
        print("all work and no play makes Jack a dull boy " * 100)
