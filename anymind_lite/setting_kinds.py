"""The kinds of settings: how each is read from text or TOML, shown, and masked when it is wrong."""

import re
from collections.abc import Iterable
from pathlib import Path

_PUBLIC_SECRET_KEYS = ("your-secret-key-change-in-production",)  # the sample in the specification
# RFC 7518, section 3.2: a key is at least as long as the hash. PyJWT warns about shorter ones.
MIN_SECRET_KEY_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}


class RefusedError(Exception):
    """A value is not accepted; the text, which may be empty, says why beyond the range."""


class Kind:
    """What a setting accepts: text unless `is_text` is false, described by `accepts`."""

    accepts: str
    is_text = True

    def from_text(self, text: str) -> object:
        """Read printable, stripped text that is not empty; raises `RefusedError`."""
        raise NotImplementedError

    def from_typed(self, value: object) -> object:
        """Read a value that is not text, from TOML or a flag; raises `RefusedError`."""
        raise RefusedError

    def show(self, value: object) -> str:
        """Write a value as a person would in `.env`."""
        return str(value)

    def mask(self, text: str) -> str:
        """Hide what may be secret in text that was refused."""
        return mask_userinfo(text)


class Text(Kind):
    """One line of text."""

    def __init__(self, max_characters: int) -> None:
        self.max_characters = max_characters
        self.accepts = f"one line of text, at most {max_characters} characters"

    def from_text(self, text: str) -> str:
        if len(text) > self.max_characters:
            raise RefusedError(f"it has {len(text)} characters")
        return text


class Choice(Kind):
    """One of a few words, in upper or lower case."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.accepts = f"{', '.join(words[:-1])} or {words[-1]}"

    def from_text(self, text: str) -> str:
        if text.upper() not in self.words:
            raise RefusedError
        return text.upper()


class Flag(Kind):
    """Yes or no."""

    accepts = "true or false (also 1/0, yes/no, on/off)"
    is_text = False

    def from_text(self, text: str) -> bool:
        if text.lower() in ("true", "1", "yes", "on"):
            return True
        if text.lower() in ("false", "0", "no", "off"):
            return False
        raise RefusedError

    def from_typed(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise RefusedError
        return value

    def show(self, value: object) -> str:
        return "true" if value else "false"


class Integer(Kind):
    """A whole number in plain digits: no sign but minus, no underscore, no fraction."""

    is_text = False

    def __init__(self, least: int, most: int, unit: str = "") -> None:
        self.least, self.most = least, most
        of_unit = f" of {unit}" if unit else ""
        self.accepts = f"a whole number{of_unit} from {least} to {most}"

    def from_text(self, text: str) -> int:
        # int() would also take "1_000" and the digits of other scripts.
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise RefusedError
        return self.from_typed(int(text))

    def from_typed(self, value: object) -> int:
        # To Python, True is an int.
        if isinstance(value, bool) or not isinstance(value, int):
            raise RefusedError
        if not self.least <= value <= self.most:
            raise RefusedError
        return value


class Seconds(Kind):
    """A length of time, with a fraction or without."""

    is_text = False

    def __init__(self, least: float, most: float) -> None:
        self.least, self.most = least, most
        self.accepts = f"a number of seconds from {least} to {most}"

    def from_text(self, text: str) -> float:
        # float() would also take "nan", "inf", "1e3" and "1_0".
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
            raise RefusedError
        return self.from_typed(float(text))

    def from_typed(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RefusedError
        if not self.least <= value <= self.most:  # NaN is in no range
            raise RefusedError
        return float(value)

    def show(self, value: object) -> str:
        return str(value).removesuffix(".0")


class RateLimit(Kind):
    """So many in so long, or no limit (None)."""

    accepts = "a count from 1 to 999999, then /second, /minute, /hour or /day; or off"

    def from_text(self, text: str) -> str | None:
        if text.lower() == "off":
            return None
        if not re.fullmatch(r"[1-9][0-9]{0,5}/(second|minute|hour|day)", text.lower()):
            raise RefusedError
        return text.lower()

    def show(self, value: object) -> str:
        return "off" if value is None else str(value)


class Origins(Kind):
    """The origins that a browser may call from, as it writes them in the `Origin` header."""

    accepts = "origins such as https://example.com:8443 with commas between; or * alone; or none"

    def from_text(self, text: str) -> tuple[str, ...]:
        if text.lower() == "none":
            return ()
        return self._read([part.strip() for part in text.split(",")])

    def from_typed(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple):
            raise RefusedError
        return self._read(value)

    def show(self, value: object) -> str:
        return ",".join(value) if isinstance(value, tuple) and value else "none"

    def _read(self, parts: Iterable[object]) -> tuple[str, ...]:
        origins = tuple(dict.fromkeys(self._origin(part) for part in parts))
        if "*" in origins and len(origins) > 1:
            raise RefusedError("* already allows every origin")
        return origins

    def _origin(self, part: object) -> str:
        if part == "*":
            return "*"
        match = isinstance(part, str) and re.fullmatch(
            r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", part.lower()
        )
        if not match:
            raise RefusedError("each is scheme://host or scheme://host:port, with nothing after")
        scheme, host, port = match.groups()
        if port is not None and not 1 <= int(port) <= 65535:
            raise RefusedError(f"there is no port {port}")
        # A browser leaves out the port that the scheme implies (RFC 6454, section 6.2).
        if port is None or (scheme, int(port)) in (("http", 80), ("https", 443)):
            return f"{scheme}://{host}"
        return f"{scheme}://{host}:{int(port)}"


class Host(Kind):
    """An address to listen on."""

    accepts = "a host name or an IP address, without scheme and port (0.0.0.0 is every IPv4 one)"

    def from_text(self, text: str) -> str:
        if not (self._is_address(text) or self._is_name(text)):
            raise RefusedError
        return text

    @staticmethod
    def _is_address(text: str) -> bool:
        import ipaddress

        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
        return True

    @staticmethod
    def _is_name(text: str) -> bool:
        # Digits and dots alone are an address with a mistake in it.
        return (
            bool(re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})", text))
            and not text.replace(".", "").isdigit()
        )


class Folder(Kind):
    """A path; a relative one starts at the project's folder."""

    accepts = "a path, absolute or relative to the project's folder"

    def from_text(self, text: str) -> Path:
        return _path(text)

    def from_typed(self, value: object) -> Path:
        if not isinstance(value, Path):
            raise RefusedError
        return self.from_text(str(value))


class DatabaseUrl(Kind):
    """The SQLite file, as the URL that SQLAlchemy users know."""

    accepts = "sqlite:///relative/file or sqlite:////absolute/file"

    def from_text(self, text: str) -> Path:
        if text.partition(":")[0].lower() != "sqlite":
            raise RefusedError("Anymind Lite keeps everything in one SQLite file")
        prefix = "sqlite:///"
        if text.lower() in ("sqlite:", "sqlite://", prefix, prefix + ":memory:"):
            raise RefusedError("a database in memory would be lost at every stop")
        path = text[len(prefix) :]
        if not text.lower().startswith(prefix) or re.search(r"[?#]", path):
            raise RefusedError("after the three slashes stands a path and nothing else")
        if path.endswith("/") or Path(path).name in ("", ".."):
            raise RefusedError("it names a folder, not a file")
        return _path(path)

    def show(self, value: object) -> str:
        return f"sqlite:///{value}"

    def mask(self, text: str) -> str:
        return mask_database_url(text)


class Secret(Kind):
    """A key that is never shown."""

    accepts = f"at least {min(MIN_SECRET_KEY_BYTES.values())} bytes that nobody else knows"

    def from_text(self, text: str) -> str:
        if text.lower() in _PUBLIC_SECRET_KEYS:
            raise RefusedError("it is the published sample, which everybody knows")
        length = len(text.encode())
        if length < min(MIN_SECRET_KEY_BYTES.values()):
            raise RefusedError(f"it has {length} bytes")
        return text

    def show(self, value: object) -> str:
        return "not set" if value is None else "**** (set)"

    def mask(self, text: str) -> str:
        return "****"


def mask_database_url(url: str) -> str:
    """Return a database URL that may be logged: user, password and query become `****`.

    Of a URL that is not SQLite's only the scheme is left.
    """
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,30}(?=:)", url)
    if scheme is None:
        return "****"
    if scheme[0].lower() != "sqlite":
        return f"{scheme[0]}://****"
    return re.sub(r"\?.*", "?****", mask_userinfo(url), flags=re.DOTALL)


def mask_userinfo(text: str) -> str:
    """Replace user and password of a URL by `****`."""
    # Greedy: a password may hold an @ or a / that should have been escaped.
    return re.sub(r"://.*@", "://****@", text, flags=re.DOTALL)


def _path(text: str) -> Path:
    # Only a shell expands ~; taken literally it makes a folder that is dangerous to remove.
    if text.startswith("~"):
        raise RefusedError("~ is not expanded here, write the whole path")
    return Path(text)
