from tests.agents.tar_parts import SOURCE, header, member, packed


def build() -> bytes:
    return packed(header("anymind.yaml", kind=b"2", link=b"/etc/passwd"), member("main.py", SOURCE))
