"""The smallest agent: one function, a dict in, a dict out."""

from typing import Any


def handle(payload: dict[str, Any]) -> dict[str, Any]:
    """Greet payload["input"], or the world if there is none."""
    name = payload.get("input", "world")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f'"input" must be a name, such as "Ada", not {name!r}')

    print("greeting", name.strip())  # what an agent prints becomes the execution's logs
    return {"message": f"Hello, {name.strip()}!"}
