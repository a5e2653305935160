import sqlite3


def read(path):
    """Read a little of a file; False where there is nothing."""
    with open(path, "rb") as file:
        return file.read(64) or False


def query(uri):
    try:
        with sqlite3.connect(uri, uri=True) as connection:
            return connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] or False
    except sqlite3.Error:
        return False


def attach(facts):
    connection = sqlite3.connect("mine.sqlite3")
    try:
        connection.execute("ATTACH ? AS theirs", (facts["database"],))
        return (
            connection.execute("SELECT count(*) FROM theirs.sqlite_master").fetchone()[0] or False
        )
    except sqlite3.Error:
        return False


ATTACKS = {
    "read as a file": lambda facts: read(facts["database"]),
    "read its log": lambda facts: read(facts["database"] + "-wal"),
    "query": lambda facts: query(f"file:{facts['database']}?mode=ro"),
    "query unlocked": lambda facts: query(f"file:{facts['database']}?mode=ro&immutable=1"),
    "attach": attach,
    "build queue": lambda facts: query(f"file:{facts['data_dir']}/queue.sqlite3?mode=ro"),
}


def handle(payload):
    facts, achieved = payload["facts"], []
    for name, attack in ATTACKS.items():
        try:
            if attack(facts) is not False:
                achieved.append(name)
        except OSError:
            pass
    return {"tried": list(ATTACKS), "achieved": achieved}
