"""What a process that reads what strangers sent can no longer do: everything but read files and answer on its line.

Own network namespace, no capabilities, no way to more rights, and a filter on system calls. A kernel or container may
refuse any of them: the process then runs with the others, and says so.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable, Iterator
from enum import IntFlag

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38  # linux/prctl.h
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
# CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: a daemon that runs as root may read the films of a folder that is not its own.
_KEPT_CAPABILITIES = 1 << 1 | 1 << 2

# linux/seccomp.h, linux/filter.h: offsets in seccomp_data, and the few instructions that are needed.
_SECCOMP_MODE_FILTER = 2
_NUMBER_AT, _MACHINE_AT = 0, 4
_ARGUMENT_AT = (16, 24, 32)
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_INSTRUCTION = struct.Struct("=HBBI")
_X32 = 0x40000000
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h

# System calls by number on x86-64 and on 64-bit ARM, which has none of the older ones.
_REFUSED: dict[str, tuple[int, ...]] = {
    "x86_64": (
        41, 42, 43, 49, 50, 53, 288,  # socket, connect, accept, bind, listen, socketpair, accept4
        56, 57, 58, 59, 322, 101, 310, 311,  # clone, fork, vfork, execve, execveat, ptrace, process_vm_readv and writev
        424, 434, 438,  # pidfd_send_signal, pidfd_open, pidfd_getfd
        248, 249, 250, 272, 298, 308, 321, 323, 425,  # keys, unshare, perf events, setns, bpf, userfaultfd, io_uring
        76, 77, 82, 83, 84, 85, 86, 87, 88, 133, 285,  # truncate to symlink, mknod, fallocate
        90, 91, 92, 93, 94, 132, 188, 189, 190, 197, 198, 199, 235,  # modes, owners, times, extended attributes
        258, 259, 260, 261, 263, 264, 265, 266, 268, 280, 316, 452,  # the same "at" a folder
    ),
    "aarch64": (
        198, 199, 200, 201, 202, 203, 242, 220, 221, 281, 117, 270, 271, 424, 434, 438,
        217, 218, 219, 97, 241, 268, 280, 282, 425, 33, 34, 35, 36, 37, 38, 45, 46, 47, 276,
        5, 6, 7, 14, 15, 16, 52, 53, 54, 55, 88, 452,
    ),
}  # fmt: skip
# kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo: only to itself.
_SIGNALLING = {"x86_64": (62, 200, 234, 129, 297), "aarch64": (129, 130, 131, 138, 240)}
# open, openat by the place of their flags: only to read.
_OPENING = {"x86_64": ((2, 1), (257, 2)), "aarch64": ((56, 2),)}
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# clone3, openat2: their flags cannot be seen from a filter; libraries then use the older ones.
_UNKNOWN = (435, 437)


class Refused(IntFlag):
    """What the kernel would not do for us."""

    NETWORK = 1
    RIGHTS = 2
    CALLS = 4

    @property
    def words(self) -> str:
        names = {Refused.NETWORK: "network namespace", Refused.RIGHTS: "dropping rights", Refused.CALLS: "call filter"}
        return ", ".join(words for flag, words in names.items() if flag in self)


def leave_network() -> Refused:
    """For this process and its children: a network namespace with nothing in it. It must have one thread."""
    alone = _is_done(lambda: _unshare(_CLONE_NEWNET)) or _is_done(lambda: _unshare(_CLONE_NEWUSER | _CLONE_NEWNET))
    return Refused(0) if alone else Refused.NETWORK


def give_up_rights() -> Refused:
    """Once for each process, after its last file was opened for writing."""
    steps: dict[Callable[[], None], Refused] = {_drop_rights: Refused.RIGHTS, _filter_calls: Refused.CALLS}
    refused = Refused(0)
    for step, flag in steps.items():
        refused |= Refused(0) if _is_done(step) else flag
    return refused


def _is_done(step: Callable[[], None]) -> bool:
    try:
        step()
    except OSError:
        return False
    return True


def _drop_rights() -> None:
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    prctl(_PR_SET_DUMPABLE, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    effective, permitted, *rest = _capabilities(header)
    del rest
    kept = struct.pack("=6I", effective & _KEPT_CAPABILITIES, permitted & _KEPT_CAPABILITIES, 0, 0, 0, 0)
    _call("capset", header, kept)


def _capabilities(header: bytes) -> tuple[int, ...]:
    """Effective, permitted, inheritable of the lower 32, then of the higher."""
    held = ctypes.create_string_buffer(24)
    _call("capget", header, held)
    return struct.unpack("=6I", held.raw)


def _filter_calls() -> None:
    machine = platform.machine()
    if machine not in _AUDIT_ARCH:
        raise OSError(errno.ENOSYS, "no table of system calls")
    instructions = b"".join(_program(machine, os.getpid()))
    held = ctypes.create_string_buffer(instructions, len(instructions))
    program = struct.pack("@HP", len(instructions) // _INSTRUCTION.size, ctypes.addressof(held))
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program)


def _program(machine: str, own_id: int) -> Iterator[bytes]:
    """Classic BPF. A jump leads over so many instructions if true, so many if not."""
    yield _instruction(_LOAD, _MACHINE_AT)
    yield from _refuse_unless(_instruction(_IF_EQUAL, _AUDIT_ARCH[machine], 1, 0))
    yield _instruction(_LOAD, _NUMBER_AT)
    yield from _refuse_unless(_instruction(_IF_AT_LEAST, _X32, 0, 1))
    for number in _REFUSED[machine]:
        yield from _refuse_unless(_instruction(_IF_EQUAL, number, 0, 1))
    for number in _UNKNOWN:
        yield _instruction(_IF_EQUAL, number, 0, 1)
        yield _instruction(_RETURN, _REFUSE | errno.ENOSYS)
    for number in _SIGNALLING[machine]:
        yield from _judge_argument(number, 0, _instruction(_IF_EQUAL, own_id, 1, 0))
    for number, argument in _OPENING[machine]:
        yield from _judge_argument(number, argument, _instruction(_IF_ANY_BIT, _TO_WRITE, 0, 1))
    yield _instruction(_RETURN, _ALLOW)


def _judge_argument(number: int, argument: int, condition: bytes) -> Iterator[bytes]:
    """Of one call, whose story ends here."""
    yield _instruction(_IF_EQUAL, number, 0, 4)
    yield _instruction(_LOAD, _ARGUMENT_AT[argument])
    yield from _refuse_unless(condition)
    yield _instruction(_RETURN, _ALLOW)


def _refuse_unless(condition: bytes) -> Iterator[bytes]:
    """``condition`` jumps over one instruction, or none."""
    yield condition
    yield _instruction(_RETURN, _REFUSE | errno.EPERM)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, value)


def prctl(option: int, value: int, content: bytes | int = 0) -> None:
    """Raise OSError."""
    third = content if isinstance(content, bytes) else ctypes.c_ulong(content)
    _call("prctl", option, ctypes.c_ulong(value), third, ctypes.c_ulong(0), ctypes.c_ulong(0))


def _unshare(flags: int) -> None:
    _call("unshare", flags)


def _call(name: str, *arguments: object) -> None:
    """A function of the C library that returns 0. Raise OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), name)
