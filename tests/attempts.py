"""What code that has taken over the decoder's child would try. The child imports this by name: it must stay light."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
from pathlib import Path

from triage.errors import Reason
from triage.study import Header

REFUSED, DONE = Reason.FOR_PROCESSING, Reason.UNSUPPORTED_MODALITY


def attempt(header: Header, *, what: str, folder: str) -> Reason | None:
    """A gate: REFUSED if the kernel does not let it, DONE if it does."""
    del header
    try:
        globals()[what](Path(folder))
    except OSError:
        return REFUSED
    return DONE


def connect_to_a_database(_: Path) -> None:
    socket.create_connection(("127.0.0.1", 5432), 1).close()


def make_a_socket(_: Path) -> None:
    socket.socket(socket.AF_UNIX).close()


def make_a_pair_of_sockets(_: Path) -> None:
    for end in socket.socketpair():
        end.close()


def fork(_: Path) -> None:
    if os.fork() == 0:
        os._exit(0)


def run_a_program(_: Path) -> None:
    subprocess.run(["/bin/true"], check=False)


def become_a_program(_: Path) -> None:
    os.execv("/bin/true", ["/bin/true"])


def kill_the_nursery(_: Path) -> None:
    os.kill(os.getppid(), signal.SIGKILL)


def kill_everybody(_: Path) -> None:
    os.kill(0, signal.SIGTERM)


def write_a_file(folder: Path) -> None:
    (folder / "new").write_bytes(b"x")


def make_an_empty_file(folder: Path) -> None:
    (folder / "new").touch()


def empty_a_file(folder: Path) -> None:
    os.close(os.open(folder / "film.dcm", os.O_RDONLY | os.O_TRUNC))


def open_a_file_to_write(folder: Path) -> None:
    os.close(os.open(folder / "film.dcm", os.O_RDWR))


def delete_a_file(folder: Path) -> None:
    (folder / "film.dcm").unlink()


def rename_a_file(folder: Path) -> None:
    (folder / "film.dcm").rename(folder / "other.dcm")


def open_a_file_to_others(folder: Path) -> None:
    (folder / "film.dcm").chmod(0o666)


def make_a_folder(folder: Path) -> None:
    (folder / "new").mkdir()


def leave_a_link(folder: Path) -> None:
    (folder / "new").symlink_to("/etc/passwd")


def get_more_memory(_: Path) -> None:
    _raise_limit(resource.RLIMIT_AS)


def get_a_core_dump(_: Path) -> None:
    _raise_limit(resource.RLIMIT_CORE)


def _raise_limit(what: int) -> None:
    try:
        resource.setrlimit(what, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ValueError:  # Python's word for EPERM
        raise PermissionError from None


def trace_the_nursery(_: Path) -> None:
    _call("ptrace", 16, os.getppid(), 0, 0)  # PTRACE_ATTACH


def mount_a_file_system(folder: Path) -> None:
    _call("mount", b"none", bytes(folder), b"tmpfs", 0, None)


def enter_another_namespace(_: Path) -> None:
    _call("unshare", 0x10000000)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


ALL = (
    "connect_to_a_database", "make_a_socket", "make_a_pair_of_sockets", "fork", "run_a_program", "become_a_program",
    "kill_the_nursery", "kill_everybody", "write_a_file", "make_an_empty_file", "empty_a_file", "open_a_file_to_write",
    "delete_a_file", "rename_a_file", "open_a_file_to_others", "make_a_folder", "leave_a_link", "get_more_memory",
    "get_a_core_dump", "trace_the_nursery", "mount_a_file_system", "enter_another_namespace",
)  # fmt: skip


def see_only_itself(_: Header) -> Reason | None:
    """REFUSED if no network interface but loopback is there, and that one is down."""
    interfaces = [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text("ascii").splitlines()[2:]]
    return REFUSED if interfaces == ["lo"] else DONE


def have_few_rights(_: Header) -> Reason | None:
    """What /proc says of the process; kept capabilities are those that read any file."""
    lines = (line.split(":") for line in Path("/proc/self/status").read_text("ascii").splitlines())
    status = {name: value.strip() for name, value in lines}
    rights = int(status["CapEff"], 16) | int(status["CapPrm"], 16) | int(status["CapInh"], 16)
    poor = (status["NoNewPrivs"], status["Seccomp"], rights & ~0b110) == ("1", "2", 0)
    return REFUSED if poor else DONE


def have_narrow_limits(_: Header) -> Reason | None:
    most = {
        resource.RLIMIT_AS: 64 * 2**30,
        resource.RLIMIT_CPU: 3600,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 16,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    held = {what: resource.getrlimit(what) for what in most}
    return REFUSED if all(0 <= max(held[what]) <= bound for what, bound in most.items()) else DONE
