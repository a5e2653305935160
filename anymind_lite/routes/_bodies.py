"""How large the body of a request may be, by its address alone."""

from dataclasses import dataclass

from anymind_lite.config import Settings
from anymind_lite.errors import NotAuthenticated, TooLarge

# The multipart envelope around a file of the largest size.
ENVELOPE_BYTES = 1024 * 1024
# What anybody may send. More of it is kept only for who sends credentials, right or wrong.
_ANONYMOUS_BYTES = 64 * 1024

_UPLOADS = "/api/v1/uploads/agent/"
_SIGN_IN = "/api/v1/auth/"  # who signs in has no credentials yet

NOT_AUTHENTICATED = "Not authenticated: send X-API-Key or Authorization: Bearer"


@dataclass(frozen=True)
class BodyRules:
    """What can be refused before a body has come, and before anybody looks who sends it."""

    upload_max_bytes: int
    payload_max_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> "BodyRules":
        """Return the rules that follow from the settings."""
        return cls(settings.upload_max_bytes, settings.payload_max_bytes)

    @property
    def largest_bytes(self) -> int:
        """The largest body of any request."""
        return max(self.upload_max_bytes + ENVELOPE_BYTES, self.payload_max_bytes)

    def check(self, path: str, body_bytes: int, *, has_credentials: bool) -> None:
        """Raise NotAuthenticated or TooLarge if a body of so many bytes will be refused anyway."""
        is_anonymous = not has_credentials and not path.startswith(_SIGN_IN)
        if is_anonymous and body_bytes > _ANONYMOUS_BYTES:
            raise NotAuthenticated(NOT_AUTHENTICATED)
        if path.startswith(_UPLOADS):
            check_upload(body_bytes, self.upload_max_bytes)
        else:
            check_json(body_bytes, self.payload_max_bytes)


def check_upload(body_bytes: int, max_file_bytes: int) -> None:
    """Raise TooLarge for a form that cannot but hold a larger file than that."""
    if body_bytes > max_file_bytes + ENVELOPE_BYTES:
        raise TooLarge(f"File exceeds the limit of {max_file_bytes:,} bytes")


def check_json(body_bytes: int, max_bytes: int) -> None:
    """Raise TooLarge for a JSON body over the limit."""
    if body_bytes > max_bytes:
        raise TooLarge(f"The JSON body is larger than {max_bytes} bytes")
