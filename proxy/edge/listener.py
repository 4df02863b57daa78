"""The listening sockets: our own, or those that systemd or the process before us left open."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping

from proxy.errors import SettingsError

_FIRST_INHERITED_FD = 3  # sd_listen_fds(3)


def inherited(environment: Mapping[str, str]) -> list[socket.socket]:
    """Sockets passed by the LISTEN_FDS protocol; empty if there are none for this process."""
    count = environment.get("LISTEN_FDS", "")
    pid = environment.get("LISTEN_PID")
    if not count.isdigit() or (pid is not None and pid != str(os.getpid())):
        return []
    sockets = [socket.socket(fileno=_FIRST_INHERITED_FD + i) for i in range(int(count))]
    for listening in sockets:
        listening.setblocking(False)
        listening.set_inheritable(False)
    return sockets


def listen(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listens on every address that `host` names.

    Raises:
        SettingsError: the port is taken, or the address is not ours.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listening = socket.socket(family, kind, protocol)
            sockets.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(address)
            listening.listen(backlog)
            listening.setblocking(False)
    except OSError as error:
        for listening in sockets:
            listening.close()
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} is taken by another process; end that one or choose another with --port"
        else:
            reason = str(error)
        raise SettingsError(f"cannot listen on {host}:{port}: {reason}") from None
    return sockets
