"""The threads that answer: a few from the start, and more as they are needed."""

from waitress.task import Task, ThreadedTaskDispatcher


class Threads(ThreadedTaskDispatcher):
    """Starts a thread when a request finds none that waits, up to `most`; none ends before all do.

    A server that has little to do keeps little: each thread that was ever used is 15 kB, and there
    may be a hundred.
    """

    def __init__(self, *, first: int, most: int) -> None:
        super().__init__()
        self._most = most
        self.set_thread_count(min(first, most))

    def add_task(self, task: Task) -> None:
        """Have a request answered, by any thread."""
        super().add_task(task)
        with self.lock:
            waiting = len(self.threads) - self.stop_count - self.active_count
            if len(self.queue) > waiting and len(self.threads) < self._most:
                self._start_one()

    def _start_one(self) -> None:
        number = len(self.threads)  # none ends before all do, so it is free
        try:
            self.start_new_thread(self.handler_thread, number)
        except (RuntimeError, MemoryError):
            self.logger.warning("event=thread_not_started threads=%d", number)
            return  # the machine has none to give: those that there are take the request in turn
        self.threads.add(number)
        self.active_count += 1

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        """End every thread, and start no other; tell whether requests were waiting."""
        with self.lock:
            self._most = 0
        return bool(super().shutdown(cancel_pending, timeout))
