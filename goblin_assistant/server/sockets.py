"""What the kernel knows of a client's socket."""

from __future__ import annotations

import fcntl
import select
import socket
import sys
import termios

_HALF_CLOSED = getattr(select, "POLLRDHUP", 0)
"""Only Linux has it. Without it a reset is seen, and an end is not before it is read."""


def unacknowledged(sock: socket.socket) -> int:
    """Bytes in the socket that the client has not acknowledged (tcp(7), SIOCOUTQ). A slow reader
    takes them for minutes before there is room for more: that is no stall."""
    try:
        return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def has_closed(sock: socket.socket) -> bool:
    """Whether the peer has closed its half, also while bytes before that are unread."""
    poll = select.poll()
    poll.register(sock, _HALF_CLOSED)
    return bool(poll.poll(0))
