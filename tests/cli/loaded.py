"""Commands as forks of one process that has loaded the whole program: real, but soon started.

Each is a process of its own, with its own arguments, environment, folder and streams, and runs
what ``python -m tinyscheduler`` runs.  What it leaves out is starting an interpreter and loading
libraries, which takes most commands longer than all they do.  Whoever tests that, or what a
process is known by (its command line, its terminal), starts the program itself.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib import import_module
from pkgutil import walk_packages
from threading import Thread
from typing import TYPE_CHECKING, NoReturn

import tinyscheduler
from tinyscheduler import __main__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# Loaded by the program only where they are needed, and slow to load.
_LIBRARIES = ("typer.rich_utils", "pydantic_settings", "yaml", "rich.console", "rich.table")
_STREAMS = 3
# A program that hands its arguments, environment, folder and streams over and ends as that ends.
_STAND_IN = """#!{python} -IS
import json, os, socket, sys
line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
line.connect({address!r})
asked = {{"arguments": sys.argv[1:], "environment": dict(os.environ), "cwd": os.getcwd()}}
request = os.memfd_create("request")
os.write(request, json.dumps(asked).encode())
os.lseek(request, 0, os.SEEK_SET)
socket.send_fds(line, [b"run"], [request, 0, 1, 2])
code = os.waitstatus_to_exitcode(int(line.recv(64)))
if code < 0:
    os.kill(os.getpid(), -code)
os._exit(code)
"""


def run_loaded(
    argv: Sequence[str | bytes],
    *,
    environment: dict[str, str],
    cwd: Path,
    stdin: bytes,
    timeout_s: float,
) -> subprocess.CompletedProcess[bytes]:
    """Run the program with these arguments; return how it ended and its bytes.

    Its streams are files: what waits for more, or for the other end to go, needs a pipe.
    """
    arguments = [os.fsdecode(argument) for argument in argv]
    request = {"arguments": arguments, "environment": environment, "cwd": str(cwd)}
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(1 + _STREAMS)]
        for file, content in zip(files, (json.dumps(request).encode(), stdin), strict=False):
            file.write(content)
            file.seek(0)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(ours)
        ours.settimeout(timeout_s)
        with theirs:
            numbers = [file.fileno() for file in files]
            socket.send_fds(_server(os.getpid()), [b"run"], [*numbers, theirs.fileno()])
        try:
            answer = ours.recv(64)
        except TimeoutError:  # the server ends it when we hang up
            raise subprocess.TimeoutExpired(arguments, timeout_s) from None
        code = os.waitstatus_to_exitcode(int(answer))
        for file in files[2:]:
            file.seek(0)
        return subprocess.CompletedProcess(arguments, code, files[2].read(), files[3].read())


@contextmanager
def standing_in(path: Path) -> Iterator[None]:
    """Put a program there, for scripts of a shell, that runs what it is given as above."""
    server = _server(os.getpid())
    address = f"\0tinyscheduler-{os.getpid()}-{id(path)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        path.write_text(_STAND_IN.format(python=sys.executable, address=address))
        path.chmod(0o755)
        relay = Thread(target=_relay, args=(listener, server))
        relay.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            relay.join()


def _relay(listener: socket.socket, server: socket.socket) -> None:
    """Pass on who asks, until nobody may ask any more."""
    while True:
        try:
            caller, _ = listener.accept()
        except OSError:
            return
        with caller:
            _, passed, _, _ = socket.recv_fds(caller, 64, 1 + _STREAMS)
            if passed:
                socket.send_fds(server, [b"run"], [*passed, caller.fileno()])
            for one in passed:
                os.close(one)


@cache
def _server(_pid: int) -> socket.socket:
    """Start the server of this process, which ends with it, and return the line to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        os.set_inheritable(theirs.fileno(), True)
        nothing = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1)]
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", __file__, str(theirs.fileno())],
            {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
            file_actions=nothing,
        )
    return ours


def _serve(requests: socket.socket) -> None:
    """Fork for each request until nobody can ask any more."""
    running: dict[int, tuple[int, socket.socket]] = {}  # by the file descriptor of the process
    while True:
        answers = {answer.fileno(): pid for pid, answer in running.values()}
        ready, _, _ = select.select([requests.fileno(), *running, *answers], [], [])
        for number in ready:
            if number == requests.fileno():
                _, passed, _, _ = socket.recv_fds(requests, 64, 2 + _STREAMS)
                if not passed:
                    return
                pid = _fork(passed)
                running[os.pidfd_open(pid)] = (pid, socket.socket(fileno=passed.pop()))
                for one in passed:
                    os.close(one)
            elif number in running:
                pid, answer = running.pop(number)
                os.close(number)
                _, status = os.waitpid(pid, 0)
                with answer, suppress(OSError):  # nobody may wait for it any more
                    answer.send(str(status).encode())
            elif answers[number] in {pid for pid, _ in running.values()}:  # it was hung up
                os.kill(answers[number], signal.SIGKILL)


def _fork(passed: list[int]) -> int:
    pid = os.fork()
    if pid == 0:
        _become(*passed[: 1 + _STREAMS])
    return pid


def _become(request: int, *streams: int) -> NoReturn:
    with open(request, "rb", closefd=False) as file:
        asked = json.load(file)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(_STREAMS, 1024)
    # Those that the server began with believe in files, which may be sought in.
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115 - for life
    sys.stdout = open(1, "w", encoding="utf-8", errors=sys.stdout.errors, closefd=False)  # noqa: SIM115 - for life
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115 - for life
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    sys.argv = [str(__main__.__file__), *asked["arguments"]]
    __main__.run()


def _load() -> None:
    for found in walk_packages(tinyscheduler.__path__, "tinyscheduler."):
        import_module(found.name)
    for name in _LIBRARIES:
        import_module(name)
    gc.freeze()


if __name__ == "__main__":
    _load()
    _serve(socket.socket(fileno=int(sys.argv[1])))
