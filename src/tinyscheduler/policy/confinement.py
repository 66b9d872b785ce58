"""Takes from this process whatever a policy has no use for.

For a process that only computes: it keeps what is open, and memory up to a limit, and loses
files, network, other processes and new programs.  Each layer works by itself; what a kernel
does not know is left out and reported.  Constants: linux/prctl.h, seccomp.h, filter.h,
landlock.h and the tables of system calls.
"""

from __future__ import annotations

import os
import resource
import struct

# What `ctypes` is made of, which takes long to load where nothing has loaded its parts yet.
from _ctypes import CFuncPtr, _SimpleCData, addressof, dlopen, dlsym, get_errno

from tinyscheduler.policy.limits import LAYERS

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9  # signal(7); the module for it would be loaded for this alone
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_SECCOMP_RET_ALLOW = 0x7FFF0000
_SECCOMP_RET_EPERM = 0x00050001
_SECCOMP_RET_KILL = 0x80000000

_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_VERSION = 1  # a flag: asks for the version instead
# By the first version that knows it: all that one may do to files, the network, and others.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
_SINCE_NET, _NET_RIGHTS = 4, 0b11
_SINCE_SCOPES, _SCOPES = 6, 0b11

# The audit number of the machine, then what computing takes: reading what is open, writing
# to it, memory, time, signals to itself, and leaving.
_CALLS = {
    "x86_64": (
        0xC000003E,
        {
            "read": 0,
            "write": 1,
            "close": 3,
            "poll": 7,
            "mmap": 9,
            "mprotect": 10,
            "munmap": 11,
            "brk": 12,
            "rt_sigaction": 13,
            "rt_sigprocmask": 14,
            "rt_sigreturn": 15,
            "mremap": 25,
            "madvise": 28,
            "getpid": 39,
            "exit": 60,
            "gettimeofday": 96,
            "sigaltstack": 131,
            "gettid": 186,
            "time": 201,
            "futex": 202,
            "clock_gettime": 228,
            "exit_group": 231,
            "getrandom": 318,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "close": 57,
            "read": 63,
            "write": 64,
            "ppoll": 73,
            "exit": 93,
            "exit_group": 94,
            "futex": 98,
            "clock_gettime": 113,
            "sigaltstack": 132,
            "rt_sigaction": 134,
            "rt_sigprocmask": 135,
            "rt_sigreturn": 139,
            "gettimeofday": 169,
            "getpid": 172,
            "gettid": 178,
            "brk": 214,
            "munmap": 215,
            "mremap": 216,
            "mmap": 222,
            "mprotect": 226,
            "madvise": 233,
            "getrandom": 278,
        },
    ),
}


class _Function(CFuncPtr):
    """A function of C that returns an integer and takes plain ones of 32 bits, and texts."""

    _flags_ = 1 | 8  # called as C does, and errno is kept


class _Byte(_SimpleCData):  # type: ignore[type-arg]  # generic in the stubs alone
    """Of a buffer."""

    _type_ = "c"


# The symbols of the program itself, and so of the C library (dlopen(3)).
_program = dlopen(None, os.RTLD_LAZY)  # type: ignore[arg-type]  # the stubs lack None
_prctl = _Function(dlsym(_program, "prctl"))
_syscall = _Function(dlsym(_program, "syscall"))


class UnavailableError(Exception):
    """This kernel, or what surrounds this process, does not offer the layer."""


def die_with_parent() -> None:
    """Let this process be killed when the thread ends that started it: nobody asks any more."""
    _check(_prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0))


def confine(layers: tuple[str, ...], *, memory_bytes: int, cpu_s: int) -> dict[str, str]:
    """Apply the layers in order; return those that are missing, and why.

    ``memory_bytes`` is what the process may use more than it does now, ``cpu_s`` what it may
    compute from its start.  Nothing of this can be taken back.
    """
    missing = {}
    # Read while files can be read.
    most_bytes = _used_bytes() + memory_bytes
    for layer in LAYERS:
        if layer not in layers:
            continue
        try:
            match layer:
                case "rlimits":
                    _limit_resources(most_bytes=most_bytes, cpu_s=cpu_s)
                case "no_new_privs":
                    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
                case "landlock":
                    _landlock()
                case _:
                    _seccomp()
        except UnavailableError as error:
            missing[layer] = str(error)
        except (OSError, ValueError) as error:
            missing[layer] = getattr(error, "strerror", None) or str(error)
    return missing


def _used_bytes() -> int:
    with open("/proc/self/statm", "rb") as stream:
        return int(stream.read().split()[0]) * resource.getpagesize()


def _limit_resources(*, most_bytes: int, cpu_s: int) -> None:
    _lower(resource.RLIMIT_AS, most_bytes)
    # A second later the kernel asks no more.
    _lower(resource.RLIMIT_CPU, cpu_s + 1)
    _, hard_s = resource.getrlimit(resource.RLIMIT_CPU)
    # Whoever started us may have had less to give.
    resource.setrlimit(resource.RLIMIT_CPU, (min(cpu_s, max(1, hard_s - 1)), hard_s))
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, 0)
    _lower(resource.RLIMIT_NPROC, 0)


def _lower(which: int, to: int) -> None:
    """Set a limit for good; one that is lower already stays."""
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        to = min(to, hard)
    resource.setrlimit(which, (to, to))


def _landlock() -> None:
    version = _syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        raise UnavailableError("this kernel has no landlock")
    rights = max(bits for since, bits in _FILE_RIGHTS.items() if since <= version)
    attributes = struct.pack("=Q", (1 << rights) - 1)
    if version >= _SINCE_NET:
        attributes += struct.pack("=Q", _NET_RIGHTS)
    if version >= _SINCE_SCOPES:
        attributes += struct.pack("=Q", _SCOPES)
    # Nothing is allowed of all that.
    rules = _check(_syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0))
    try:
        _check(_syscall(_LANDLOCK_RESTRICT_SELF, rules, 0))
    finally:
        os.close(rules)


def _seccomp() -> None:
    machine = os.uname().machine
    if machine not in _CALLS:
        raise UnavailableError(f"no table of system calls for {machine}")
    audit, calls = _CALLS[machine]
    allowed = sorted(calls.values())
    filters = [
        _statement(0x20, 4),  # the machine
        _jump(0x15, audit, if_true=1),
        _statement(0x06, _SECCOMP_RET_KILL),
        _statement(0x20, 0),  # the number of the call
        *(_jump(0x15, call, if_true=len(allowed) - at) for at, call in enumerate(allowed)),
        _statement(0x06, _SECCOMP_RET_EPERM),
        _statement(0x06, _SECCOMP_RET_ALLOW),
    ]
    code = b"".join(filters)
    buffer = (_Byte * len(code)).from_buffer_copy(code)
    program = struct.pack("@HP", len(filters), addressof(buffer))
    _check(_prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0))


def _statement(code: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, 0, 0, value)


def _jump(code: int, value: int, *, if_true: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, 0, value)


def _check(result: int) -> int:
    if result < 0:
        number = get_errno()
        raise OSError(number, os.strerror(number))
    return result
