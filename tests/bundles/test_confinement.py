"""What a confined process can no longer do, each tried by one that is confined and one that
is not."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles.conftest import require_confined

MEMORY = 2**28
ROOT = Path(__file__).parents[2]
LINUX = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="Landlock and seccomp are Linux's",
)

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX's")

FILES = {
    "read": "open({file!r}).read()",
    "list": "os.listdir({folder!r})",
    "write": "open({file!r}, 'a')",
    "make": "open({folder!r} + '/new', 'w')",
    "remove": "os.unlink({file!r})",
    "empty": "os.truncate({file!r}, 0)",
    "take": "os.rename({file!r}, 'mine')",
    "put": "os.makedirs('new', exist_ok=True); os.rename('new', {folder!r} + '/new')",
    "folder": "os.mkdir({folder!r} + '/new')",
    "link": "os.path.lexists('link') or os.symlink({file!r}, 'link'); open('link').read()",
    "account": "open('/etc/passwd').read()",
    "other process": "open('/proc/' + str(os.getppid()) + '/environ', 'rb').read()",
    "other command": "open('/proc/' + str(os.getppid()) + '/cmdline', 'rb').read()",
}
CALLS = {
    "TCP": "socket.socket()",
    "UDP": "socket.socket(type=socket.SOCK_DGRAM)",
    "Unix": "socket.socket(socket.AF_UNIX)",
    "pair": "socket.socketpair()",
    "fork": "os.fork() or os._exit(0)",
    "start": "subprocess.run([sys.executable, '-c', ''], check=True)",
    "spawn": "os.posix_spawn('/bin/true', ['true'], {{}})",
    "become": "os.execv('/bin/true', ['true'])",
    "signal": "os.kill(os.getppid(), 0)",
    "mode": "os.chmod({file!r}, 0o600)",
    "owner": "os.chown({file!r}, os.getuid(), os.getgid())",
    "time": "os.utime({file!r})",
    "priority of others": (  # its own again: the tests may run at a low one
        "p = os.PRIO_PROCESS, os.getppid(); os.setpriority(*p, os.getpriority(*p))"
    ),
    "cores of others": "os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))",
    "limits of others": (
        "import resource as r; r.prlimit(os.getppid(), r.RLIMIT_CORE, r.getrlimit(r.RLIMIT_CORE))"
    ),
    "shared memory": "import mmap; mmap.mmap(-1, 4096)",
    "shared zeros": ("import mmap; mmap.mmap(os.open('/dev/zero', os.O_RDWR), 4096)"),
}


def run(
    code: str, folder: Path, *, confined: bool, seconds: int = 60, readable: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """One line of Python in a process of its own."""
    lines = f"""
import os, socket, subprocess, sys
sys.path.insert(0, {str(ROOT)!r})
from search.bundles.confinement import confine
print(*(confine({readable}, seconds={seconds}, memory={MEMORY}) if {confined} else []), flush=True)
{code}
"""
    command = [sys.executable, "-I", "-c", lines]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )


@LINUX
@pytest.mark.parametrize("attempt", [*FILES, *CALLS])
def test_what_is_given_up(attempt: str, tmp_path: Path) -> None:
    own, theirs = tmp_path / "own", tmp_path / "theirs"
    for folder in (own, theirs):
        folder.mkdir()
    file = theirs / "secret"
    code = {**FILES, **CALLS}[attempt].format(file=str(file), folder=str(theirs))
    file.write_text("secret")
    confined = run(code, own, confined=True)
    require_confined(confined.stdout.strip())
    assert confined.returncode == 1, confined.stderr
    assert "Error: [Errno" in confined.stderr
    assert file.read_text() == "secret"
    assert [*theirs.iterdir()] == [file]
    free = run(code, own, confined=False)
    assert free.returncode == 0, free.stderr


@LINUX
def test_what_the_system_offers_is_used(tmp_path: Path) -> None:
    """Or the tests above would be skipped where confinement is broken."""
    libc = ctypes.CDLL(None)
    landlock = libc.syscall(444, None, ctypes.c_size_t(0), 1) > 0  # its version
    seccomp = libc.prctl(21, 0, 0, 0, 0) >= 0  # the mode of this process
    missing = run("", tmp_path, confined=True).stdout.split()
    assert ("files" in missing) != landlock
    assert ("network" in missing, "processes" in missing) == (not seccomp, not seccomp)


# What Python has no function for, or not on every system, with arguments that come to nothing.
LIBRARY = {
    "ptrace": (17, -1, None, None),
    "process_vm_readv": (-1, None, 0, None, 0, 0),
    "process_vm_writev": (-1, None, 0, None, 0, 0),
    "execveat": (-1, b"x", None, None, 0),
    "tgkill": (-1, -1, 0),
    "sigqueue": (-1, 0, None),
    "pidfd_open": (-1, 0),
    "pidfd_send_signal": (-1, 0, None, 0),
    "fchmod": (-1, 0),
    "fchmodat": (-1, b"x", 0, 0),
    "fchown": (-1, 0, 0),
    "lchown": (b"", 0, 0),
    "fchownat": (-1, b"x", 0, 0, 0),
    "utime": (b"", None),
    "utimes": (b"", None),
    "futimesat": (-1, b"x", None),
    "setxattr": (b"", b"user.x", b"", 0, 0),
    "lsetxattr": (b"", b"user.x", b"", 0, 0),
    "fsetxattr": (-1, b"user.x", b"", 0, 0),
    "removexattr": (b"", b"user.x"),
    "lremovexattr": (b"", b"user.x"),
    "fremovexattr": (-1, b"user.x"),
    "sched_setparam": (-1, None),
    "sched_setscheduler": (-1, 0, None),
    "shmget": (1, 0, 0),
    "semget": (1, 0, 0),
    "msgget": (1, 0),
    "mq_open": (b"/none", 0),
    "unshare": (0,),
    "setns": (-1, 0),
}


@LINUX
def test_what_the_c_library_calls_is_given_up_too(tmp_path: Path) -> None:
    code = f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for name, arguments in {LIBRARY}.items():
    if hasattr(libc, name):
        failed = getattr(libc, name)(*arguments) == -1
        print(name, errno.errorcode[ctypes.get_errno()] if failed else "done")
"""
    answers = {}
    for confined in (True, False):
        missing, *lines = run(code, tmp_path, confined=confined).stdout.splitlines()
        require_confined(missing)
        answers[confined] = dict(line.split() for line in lines)
    assert answers[True] == dict.fromkeys(answers[False], "EPERM")
    assert "EPERM" not in answers[False].values()
    assert len(answers[False]) > 20


@LINUX
def test_no_process_is_made_by_the_calls_that_make_threads(tmp_path: Path) -> None:
    clone = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
    code = f"""
import ctypes, errno, signal
libc = ctypes.CDLL(None, use_errno=True)
new = (ctypes.c_uint64 * 8)(0, 0, 0, 0, signal.SIGCHLD)
memory = 0x100 | 0x4000  # shared, as after vfork
calls = ({clone}, signal.SIGCHLD), ({clone}, memory | signal.SIGCHLD), (435, new, 64)
for call in calls:
    made = libc.syscall(*call, 0, 0, 0) != -1
    print("made" if made else errno.errorcode[ctypes.get_errno()], flush=True)
"""
    missing, *answers = run(code, tmp_path, confined=True).stdout.splitlines()
    require_confined(missing)
    assert answers == ["EPERM", "EPERM", "ENOSYS"]


@LINUX
def test_what_may_be_read_may_not_be_written(tmp_path: Path) -> None:
    own, theirs = tmp_path / "own", tmp_path / "theirs"
    for folder in (own, theirs):
        folder.mkdir()
    file = theirs / "given"
    file.write_text("given")
    code = f"print(open({str(file)!r}).read()); open({str(file)!r}, 'r+')"
    result = run(code, own, confined=True, readable=(str(theirs),))
    assert result.stdout.splitlines()[-1] == "given"
    assert "PermissionError" in result.stderr or "files" in result.stdout


@LINUX
def test_threads_stay() -> None:
    code = (
        "import threading; t = threading.Thread(target=print, args=('ran',)); t.start(); t.join()"
    )
    assert run(code, ROOT, confined=True).stdout.split() == ["ran"]


@POSIX
def test_an_endless_loop_ends(tmp_path: Path) -> None:
    assert run("while True: pass", tmp_path, confined=True, seconds=1).returncode == -24  # SIGXCPU


@POSIX
def test_time_is_allowed_in_parts(tmp_path: Path) -> None:
    code = """
import resource
from search.bundles.confinement import allow
for seconds in (1, 40, 10_000):
    allow(seconds)
    print(*resource.getrlimit(resource.RLIMIT_CPU))
"""
    shown = run(code, tmp_path, confined=True, seconds=60).stdout.splitlines()
    assert shown[-3:] == ["1 65", "40 65", "65 65"]


@POSIX
def test_few_files_are_open_and_memory_is_not_dumped(tmp_path: Path) -> None:
    code = (
        "import resource as r; print(*r.getrlimit(r.RLIMIT_CORE)); "
        "[os.open(os.devnull, os.O_RDONLY) for _ in range(600)]"
    )
    result = run(code, tmp_path, confined=True)
    assert "Too many open files" in result.stderr
    assert result.stdout.splitlines()[-1] == "0 0"


@LINUX
def test_memory_is_bounded(tmp_path: Path) -> None:
    result = run(f"bytearray({MEMORY + 1})", tmp_path, confined=True)
    assert "MemoryError" in result.stderr


@LINUX
def test_limits_are_not_raised_again(tmp_path: Path) -> None:
    """Not by root either, who loses its powers."""
    powers = "print(*(line for line in open('/proc/self/status') if 'CapPrm' in line))"
    shown = run(powers, tmp_path, confined=True).stdout.splitlines()
    assert not int(shown[1].split()[1], base=16)
    code = f"import resource as r; r.setrlimit(r.RLIMIT_DATA, (2 * {MEMORY}, 2 * {MEMORY}))"
    assert "Error: not allowed to raise maximum limit" in run(code, tmp_path, confined=True).stderr


@POSIX
def test_nothing_is_written(tmp_path: Path) -> None:
    result = run(
        "os.write(os.open('mine', os.O_CREAT | os.O_WRONLY), b'x')", tmp_path, confined=True
    )
    assert "File too large" in result.stderr
    assert not (tmp_path / "mine").read_bytes()
