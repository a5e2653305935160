import os

PLACES = "/tmp /var/tmp /dev/shm /run /scratch /scratch/run /code /agent / /dev /etc /usr/lib /root /home".split()
PLACES += ["/dev/mqueue", "/var/lib", "/usr/local", os.path.dirname(os.__file__)]


def places(facts):
    """Where to leave something, the shared places of the host and its own."""
    own = [
        facts["public_dir"],
        facts["data_dir"],
        facts["own_code"],
        facts["project"],
        facts["home"],
    ]
    return [*PLACES, ".", "..", os.path.dirname(__file__), *own]


NAMES = {"hostile-left": lambda path: open(path, "w").close(), "hostile-dir": os.mkdir}


def made(path, make):
    try:
        make(path)
    except OSError:
        return False
    # Its own scratch folder is there to write into; the next run must find it empty.
    return os.path.realpath(os.path.dirname(path)) != os.getcwd()


def handle(payload):
    paths = [f"{place}/{name}" for place in places(payload["facts"]) for name in NAMES]
    achieved = [f"found {path}" for path in paths if os.path.lexists(path)]
    achieved += [f"made {path}" for path in paths if made(path, NAMES[os.path.basename(path)])]
    return {"tried": paths, "achieved": achieved}
