"""What an agent printed, kept head and tail. Runs in the server."""

from collections import deque


class LogBuffer:
    """Collects bytes without end in bounded memory: the first half and the last half are kept."""

    def __init__(self, kept_bytes: int) -> None:
        self._half = kept_bytes // 2
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self.written_bytes = 0

    def append(self, chunk: bytes) -> None:
        """Take the next bytes of the stream."""
        self.written_bytes += len(chunk)
        room = self._half - len(self._head)
        if room > 0:
            self._head += chunk[:room]
            chunk = chunk[room:]
        if chunk:
            self._tail.append(chunk)
            self._tail_bytes += len(chunk)
            while self._tail_bytes - len(self._tail[0]) >= self._half:
                self._tail_bytes -= len(self._tail.popleft())

    def text(self) -> str:
        """Return what was kept as text, with a line that counts what was left out."""
        tail = b"".join(self._tail)[-self._half :] if self._half else b""
        omitted = self.written_bytes - len(self._head) - len(tail)
        middle = f"\n... {omitted:,} bytes left out ...\n".encode() if omitted else b""
        whole = bytes(self._head) + middle + tail
        # NUL ends text in many of the tools that will read it.
        return whole.decode("utf-8", "replace").replace("\0", "\ufffd")
