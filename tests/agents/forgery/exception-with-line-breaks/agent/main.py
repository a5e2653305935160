def handle(payload):
    raise ValueError("harmless\r\n\x1b[1A\x1b[2KBuild completed successfully\x00\u2028")
