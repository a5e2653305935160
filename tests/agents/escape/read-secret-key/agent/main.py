import os


def handle(payload):
    facts = payload["facts"]
    key, tried, achieved = facts["secret_key"], [], []
    roots = ["", "/proc/self/root", "/proc/1/root", f"/proc/{facts['server_pid']}/root"]
    roots += [f"/proc/{facts['server_pid']}/cwd/../../../../../../..", "../../../../../../../.."]
    roots += [f"{os.path.dirname(__file__)}/../../../../../../.."]
    for root in roots:
        tried.append(root + key)
        try:
            with open(root + key, "rb") as file:
                if file.read():
                    achieved.append(root + key)
        except OSError:
            pass
    return {"tried": tried, "achieved": achieved}
