"""What each process of a host does for its supervisor and for systemd, whatever else it does.

`die_with_parent` first thing in main(): no process outlives a killed supervisord. `notify` speaks systemd's
readiness protocol. Knows nothing of the configuration; needs no gevent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import uuid
from pathlib import Path

SUPERVISOR_PID = "MQNODE_SUPERVISOR_PID"  # set by node/supervise.py, the pid that supervisord will have
CONFIG_FILE = "MQNODE_CONFIG"  # set by it, too, and read by the command line: the file that the operator edits
BOOT_ID = "MQNODE_BOOT_ID"  # set by systemd/mqnode.service, which hides /proc/sys
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel SIGKILL this process when its supervisord dies. Without a supervisor it does nothing.

    SIGKILL, because a hung process is just the one that would stay; whatever was acknowledged is on disk.
    """
    supervisor = os.environ.get(SUPERVISOR_PID)
    if supervisor is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(supervisor):  # it died before the call: there will be no signal
        os.kill(os.getpid(), signal.SIGKILL)


def boot_id() -> bytes:
    """16 bytes, other ones after each boot of the kernel; empty where nobody tells."""
    try:
        told = os.environ.get(BOOT_ID) or Path("/proc/sys/kernel/random/boot_id").read_text()
        return uuid.UUID(told.strip()).bytes
    except (OSError, ValueError):
        return b""


def notify(message: str) -> bool:
    """Send `READY=1`, `WATCHDOG=1`, `STATUS=…` or `STOPPING=1` to systemd, if it started us with Type=notify.

    False when systemd does not take it now, as while it reloads: the caller says it again later.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return True
    if address.startswith("@"):  # abstract namespace
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(message.encode(), socket.MSG_DONTWAIT, address)
        except OSError:
            return False
    return True
