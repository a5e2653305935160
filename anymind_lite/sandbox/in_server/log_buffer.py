"""What an agent printed, kept head and tail. Runs in the server."""


class LogBuffer:
    """Collects bytes without end in bounded memory: the first half and the last half are kept."""

    def __init__(self, kept_bytes: int) -> None:
        self._half = kept_bytes // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.written_bytes = 0

    def append(self, chunk: bytes) -> None:
        """Take the next bytes of the stream."""
        self.written_bytes += len(chunk)
        room = self._half - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:]
        # Cheap: a bytearray gives bytes at its front up without moving the others.
        del self._tail[: max(0, len(self._tail) - self._half)]

    def text(self) -> str:
        """Return what was kept as text, with a line that counts what was left out."""
        omitted = self.written_bytes - len(self._head) - len(self._tail)
        middle = f"\n... {omitted:,} bytes left out ...\n".encode() if omitted else b""
        whole = self._head + middle + self._tail
        # NUL ends text in many of the tools that will read it.
        return whole.decode("utf-8", "replace").replace("\0", "\ufffd")
