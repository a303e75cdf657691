"""Runs functions in threads, one file operation at a time, in an order that the caller chooses.

A function stops before each file operation that Python audits (open, rename, listdir, flock, ...), and instead of
sleeping. Only one thread runs at a time, so a history depends on the caller's choices alone and can be repeated.
"""

import errno
import os
import sys
import threading
import time

_EVENTS = {"open", "fcntl.flock", "ctypes.dlopen"}
_EVENTS |= {f"os.{name}" for name in ("rename", "remove", "mkdir", "rmdir", "listdir", "scandir", "utime", "link")}

_current = threading.local()
_real_sleep = time.sleep
_num_running = 0  # functions that have not ended
_lock = threading.Lock()


class Killed(OSError):
    """Error of all file operations of a killed function."""


class Stepwise:
    """Function that runs in a thread, up to the next file operation with each call of `step`.

    Attributes:
        result, error: result of the function, or its exception. Both are None until it ends.
        ended: whether the function returned, failed or was killed.
    """

    def __init__(self, function):
        self.result = self.error = None
        self.ended = False
        self._killed = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def step(self, steps=1):
        """Runs `steps` file operations, or fewer if the function ends."""
        for _ in range(steps):
            if self.ended:
                return
            self._go.release()
            self._stopped.acquire()

    def kill(self):
        """Ends the function before its next file operation, as SIGKILL ends a process.

        Its files are closed, which releases its locks, because the function still handles the error of this and of all
        later file operations. None of them has an effect.
        """
        self._killed = True
        self.step()
        assert self.ended

    def pause(self):
        """Stops the function until the next step."""
        if not self._killed:
            self._stopped.release()
            self._go.acquire()
        if self._killed:
            raise Killed(errno.EIO, os.strerror(errno.EIO))

    def _run(self, function):
        _current.function = self
        _count(1)
        try:
            self.pause()
            self.result = function()
        except Exception as error:
            self.error = error
        finally:
            _current.function = None
            _count(-1)
            self.ended = True
            if self._killed:
                self.error = Killed()
            self._stopped.release()


def _count(change):
    """Counts the functions that run. `time.sleep` is replaced as long as one runs."""
    global _num_running
    with _lock:
        _num_running += change
        time.sleep = _sleep if _num_running else _real_sleep


def _before_event(event, _):
    if _num_running and event in _EVENTS:
        function = getattr(_current, "function", None)
        if function is not None:
            function.pause()


def _sleep(seconds):
    function = getattr(_current, "function", None)
    if function is None:
        _real_sleep(seconds)
    else:
        function.pause()  # other functions run meanwhile


sys.addaudithook(_before_event)  # for the rest of the process, because a hook cannot be removed
