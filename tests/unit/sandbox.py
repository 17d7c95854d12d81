"""What systemd's SystemCallFilter and RestrictAddressFamilies take from a service, taken from the calling thread.

systemd itself makes them only as PID 1. Threads and processes that the thread starts afterwards inherit them; nobody else has them.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import subprocess
from collections.abc import Iterable

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2  # prctl(2)
_LOAD, _IS_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF, see seccomp(2)
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER_AT, _FIRST_ARGUMENT_AT = 0, 16


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def restrict(syscall_filters: Iterable[str], families: str) -> None:
    """Both as they stand in a unit: the values of all lines SystemCallFilter in their order, and RestrictAddressFamilies."""
    allowed = _numbers(_allowed(syscall_filters))
    code = b"".join(
        [
            _instruction(_LOAD, _NUMBER_AT),
            *_sockets(_numbers({"socket"}).pop(), [getattr(socket, name) for name in families.split()]),
            *(step for number in sorted(allowed) for step in _allow_if(number)),
            _instruction(_RETURN, _ERRNO | errno.EPERM),
        ]
    )
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(code) // 8, code)
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, ctypes.byref(program))):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


def _sockets(number: int, families: list[int]) -> list[bytes]:
    known = [step for family in families for step in _allow_if(family)]
    return [
        _instruction(_IS_EQUAL, number, otherwise=len(known) + 2),
        _instruction(_LOAD, _FIRST_ARGUMENT_AT),
        *known,
        _instruction(_RETURN, _ERRNO | errno.EAFNOSUPPORT),
    ]


def _allow_if(value: int) -> list[bytes]:
    return [_instruction(_IS_EQUAL, value, otherwise=1), _instruction(_RETURN, _ALLOW)]


def _instruction(code: int, value: int, otherwise: int = 0) -> bytes:
    """`otherwise`: how many to skip if it is not equal."""
    return struct.pack("=HBBI", code, 0, otherwise, value)


def _allowed(syscall_filters: Iterable[str]) -> set[str]:
    allowed = _members("@default")
    for line in syscall_filters:
        names = {name for word in line.removeprefix("~").split() for name in _members(word)}
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def _members(word: str) -> set[str]:
    """The system calls of a group, those of the groups in it included."""
    if not word.startswith("@"):
        return {word}
    command = ["systemd-analyze", "syscall-filter", "--no-pager", word]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()[1:]
    words = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return {name for each in words for name in _members(each)}


def _numbers(names: set[str]) -> set[int]:
    """Of those that this machine has."""
    source = "#include <sys/syscall.h>\n" + "".join(f"number {name} __NR_{name}\n" for name in sorted(names))
    command = ["cc", "-E", "-P", "-"]
    text = subprocess.run(command, input=source, capture_output=True, text=True, check=True, timeout=60).stdout
    fields = [line.split() for line in text.splitlines() if line.startswith("number ")]
    return {int(number) for _, _, number in fields if number.isdecimal()}
