# coding: utf-7
# harmless +AAo-raise SystemExit(7)


def handle(payload):
    return {}
