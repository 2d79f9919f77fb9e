"""`python -m tests.knative.apart COMMAND...`: run a command in a network of its own, which has nothing but loopback.

There several pods can have the same fixed ports at a time. For Linux, where users may make namespaces
(user_namespaces(7)).
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


def apart(*command: str) -> list[str]:
    """The command that runs `command` in a network of its own."""
    return [sys.executable, "-m", "tests.knative.apart", *command]


@functools.cache
def can() -> bool:
    """Whether that is possible here."""
    return subprocess.run(apart("true"), capture_output=True, check=False).returncode == 0


def enter() -> None:
    """Put this process, which must have one thread, into a new network. Raises OSError if that is not allowed."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))


if __name__ == "__main__":
    enter()
    os.execvp(sys.argv[1], sys.argv[1:])
