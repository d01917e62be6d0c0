"""What a process gives up before it runs foreign code, as far as the system lets it.

Resource limits on every POSIX system; on Linux also Landlock (no files but Python's own) and
seccomp (no sockets, no processes, no signals), which need no privilege.  The standard library
alone is used: libraries start threads, and a thread that is there already stays free.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterable, Iterator

_FILES = 512  # open at once

# prctl(2)
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2

_CAPABILITY_VERSION = 0x20080522  # capset(2)

# landlock(7): rights on files by the version of the system that knows them, and what to allow.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
_READ_FILE, _READ_FOLDER, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/opt",
    "/sys",
    "/etc/ld.so.cache",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

# seccomp(2), AUDIT_ARCH_* and the numbers of system calls, by architecture.  Landlock lets a
# process change modes, owners and times of files, and the limits of its parent.
_CALLS = {
    "x86_64": (0xC000003E, {
        "socket": 41, "socketpair": 53, "fork": 57, "vfork": 58, "execve": 59, "kill": 62,
        "ptrace": 101, "tkill": 200, "tgkill": 234, "execveat": 322, "io_uring_setup": 425,
        "process_vm_readv": 310, "process_vm_writev": 311, "rt_sigqueueinfo": 129,
        "rt_tgsigqueueinfo": 297, "pidfd_open": 434, "pidfd_send_signal": 424,
        "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "chown": 92, "fchown": 93,
        "lchown": 94, "fchownat": 260, "utime": 132, "utimes": 235, "futimesat": 261,
        "utimensat": 280, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190,
        "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "setxattrat": 463,
        "removexattrat": 466, "setpriority": 141, "ioprio_set": 251, "sched_setparam": 142,
        "sched_setscheduler": 144, "sched_setaffinity": 203, "sched_setattr": 314,
        "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240, "add_key": 248, "keyctl": 250,
        "bpf": 321, "unshare": 272, "setns": 308, "prlimit64": 302, "mmap": 9, "clone": 56,
        "clone3": 435,
    }),
    "aarch64": (0xC00000B7, {
        "socket": 198, "socketpair": 199, "execve": 221, "kill": 129, "ptrace": 117,
        "tkill": 130, "tgkill": 131, "execveat": 281, "io_uring_setup": 425,
        "process_vm_readv": 270, "process_vm_writev": 271, "rt_sigqueueinfo": 138,
        "rt_tgsigqueueinfo": 240, "pidfd_open": 434, "pidfd_send_signal": 424,
        "fchmod": 52, "fchmodat": 53, "fchmodat2": 452, "fchown": 55, "fchownat": 54,
        "utimensat": 88, "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14,
        "lremovexattr": 15, "fremovexattr": 16, "setxattrat": 463, "removexattrat": 466,
        "setpriority": 140, "ioprio_set": 30, "sched_setparam": 118, "sched_setscheduler": 119,
        "sched_setaffinity": 122, "sched_setattr": 274, "shmget": 194, "semget": 190,
        "msgget": 186, "mq_open": 180, "add_key": 217, "keyctl": 219, "bpf": 280, "unshare": 97,
        "setns": 268, "prlimit64": 261, "mmap": 222, "clone": 220, "clone3": 435,
    }),
}  # fmt: skip
# Calls that are refused for an argument (its number, and bits of it): a process that is no
# thread, limits of another process, and memory that is shared, which no limit counts.
_IF_NONE = {"clone": (0, 0x00010000)}  # CLONE_THREAD
_IF_ANY = {"prlimit64": (0, 0xFFFFFFFF), "mmap": (3, 0x01)}  # MAP_SHARED
_ALLOW, _REFUSE, _ENOSYS, _EPERM = 0x7FFF0000, 0x00050000, 38, 1


def confine(readable: Iterable[str], *, seconds: int, memory: int) -> list[str]:
    """Limits this process, for ever: `memory` bytes of data, `seconds` of processor time, nothing
    written to a file, and on Linux no files but Python's own and those below `readable` and the
    working directory, no network, no other process.

    Returns what this system cannot keep it from.
    """
    missing = [*_limit(seconds, memory)]
    if sys.platform != "linux":
        return [*missing, "files", "network", "processes"]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or not _drop_capabilities(libc):
        return [*missing, "files", "network", "processes"]
    if not _close_files(libc, [*_python(), *readable]):
        missing.append("files")
    if not _close_calls(libc):
        missing += ["network", "processes"]
    return missing


def _drop_capabilities(libc: ctypes.CDLL) -> bool:
    """Root's powers, above all that of raising its limits again; others have none."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    dropped: bool = libc.capset(header, (ctypes.c_uint32 * 6)()) == 0
    return dropped


def allow(seconds: int) -> None:
    """Lets this process take so many seconds of processor time, of those that `confine` left it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (min(seconds, hard), hard))


def _limit(seconds: int, memory: int) -> Iterator[str]:
    try:
        import resource
    except ImportError:  # Windows
        yield from ("memory", "time")
        return
    limits = {
        resource.RLIMIT_CPU: (seconds, seconds + 5),
        resource.RLIMIT_DATA: (memory, memory),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_NOFILE: (_FILES, _FILES),
    }
    for limit, (soft, hard) in limits.items():
        _, ceiling = resource.getrlimit(limit)
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(limit, (soft, hard))
    if sys.platform != "linux":  # others count no mapped memory as data
        yield "memory"


def _python() -> Iterator[str]:
    """Where Python and its packages lie."""
    yield from {sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.dirname(os.__file__)}
    yield from (path for path in sys.path if path.endswith(("-packages", "lib-dynload")))


# --------------------------------------------------------------------------- landlock


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _close_files(libc: ctypes.CDLL, readable: Iterable[str]) -> bool:
    version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    rights = max(count for since, count in _FILE_RIGHTS.items() if since <= version)
    ruleset = _Ruleset((1 << rights) - 1, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = libc.syscall(_LANDLOCK_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(size), 0)
    if rules < 0:
        return False
    for path in (*_SYSTEM, *readable):
        _allow(libc, rules, path, _READ_FILE | _READ_FOLDER)
    _allow(libc, rules, os.getcwd(), ruleset.files)
    for path in _DEVICES:
        _allow(libc, rules, path, _READ_FILE | _WRITE_FILE)
    failed = libc.syscall(_LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)
    return not failed


def _allow(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not on this system
        return
    try:
        if not os.path.isdir(path):
            rights &= ~_READ_FOLDER
        beneath = _Beneath(rights, place)
        libc.syscall(_LANDLOCK_ADD, rules, 1, ctypes.byref(beneath), 0)
    finally:
        os.close(place)


# ---------------------------------------------------------------------------- seccomp


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("true", ctypes.c_uint8),
        ("false", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_CONDITIONAL = ("clone3", *_IF_NONE, *_IF_ANY)


def _close_calls(libc: ctypes.CDLL) -> bool:
    known = _CALLS.get(platform.machine())
    if known is None:
        return False
    architecture, calls = known
    refused = [number for name, number in calls.items() if name not in _CONDITIONAL]
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _REFUSE | _EPERM),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, 0x40000000),  # x32's numbers of the same calls
        (_RETURN, 0, 0, _REFUSE | _ENOSYS),
        # The C library then takes clone, whose flags can be seen.
        (_EQUAL, 0, 1, calls["clone3"]),
        (_RETURN, 0, 0, _REFUSE | _ENOSYS),
    ]
    for number in refused:
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE | _EPERM)]
    for name, (argument, bits) in (*_IF_NONE.items(), *_IF_ANY.items()):
        lines += [
            (_EQUAL, 0, 4, calls[name]),
            (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
            (_ANY_BIT, 1, 0, bits) if name in _IF_NONE else (_ANY_BIT, 0, 1, bits),
            (_RETURN, 0, 0, _REFUSE | _EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]
    lines.append((_RETURN, 0, 0, _ALLOW))
    code = (_Instruction * len(lines))(*(_Instruction(*line) for line in lines))
    program = _Program(len(lines), code)
    closed: bool = libc.prctl(_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) == 0
    return closed
