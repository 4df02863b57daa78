"""At which address the other nodes reach this one."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
from dataclasses import dataclass

from deploy.slurm.job.settings import JobSettings

_SIOCGIFADDR = 0x8915  # linux/sockios.h
_ANY_PORT = 9
"""Nothing is sent there: connecting a UDP socket only chooses the route."""


@dataclass(frozen=True, slots=True)
class Found:
    """An address, or why there is none."""

    address: str | None
    problem: str = ""


def own_address(settings: JobSettings, head: str) -> Found:
    """By interface or subnet where one was said, else by the route to the node `head`."""
    if settings.interface is not None:
        return _of_interface(settings.interface)
    if settings.subnet is not None:
        return _in_subnet(settings.subnet)
    towards = resolve(head)
    if towards is None:
        return Found(None, f"the name {head} does not resolve: set PD_JOB_INTERFACE or PD_JOB_SUBNET")
    source = _source_towards(towards)
    return Found(source, "" if source else f"there is no route to {head} ({towards})")


def resolve(name: str) -> str | None:
    """The first address of a name, as this node sees it; None: it has none."""
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return None


def is_loopback(address: str) -> bool:
    """Whether it is good on one node only."""
    return ipaddress.ip_address(address).is_loopback


def _of_interface(name: str) -> Found:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", os.fsencode(name)[:15]))
        except OSError:
            there = ", ".join(interface for _, interface in socket.if_nameindex())
            return Found(None, f"PD_JOB_INTERFACE: {name} has no IPv4 address here; interfaces: {there}")
    return Found(socket.inet_ntoa(answer[20:24]))


def _in_subnet(text: str) -> Found:
    subnet = ipaddress.ip_network(text)
    source = _source_towards(str(subnet.network_address + min(1, subnet.num_addresses - 1)))
    if source is not None and ipaddress.ip_address(source) in subnet:
        return Found(source)
    return Found(None, f"PD_JOB_SUBNET: this node has no address in {text}: {source or 'no route there'}")


def _source_towards(address: str) -> str | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, _ANY_PORT))
            return str(probe.getsockname()[0])
    except OSError:
        return None
