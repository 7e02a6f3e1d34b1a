"""Resolves `[link] address`: where a student listens, and where teachers connect to."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from dskd_ds.errors import InputError
from dskd_ds.spec.processes import LinkSpec

HOSTNAME = "hostname"
"""The value of `[link] address` that stands for each machine's own host name."""


@dataclass(frozen=True)
class ListenAddress:
    """The address that a student binds and the one that it publishes."""

    interface: str
    """An IPv4 address of this machine, or * for all of its addresses."""
    host: str
    """Name or address that teachers connect to."""


def listen_address(spec: LinkSpec, spans_nodes: bool) -> ListenAddress:
    """Return the address at which a student of this machine listens.

    spans_nodes: whether the launch has ranks on other machines, which cannot reach a loopback
        address.
    Raises InputError if the address is unknown or unspecified, or a loopback address although the
    launch has several nodes.
    """
    host = socket.gethostname() if spec.address == HOSTNAME else spec.address
    if spec.address == HOSTNAME and spec.encrypt:
        # Only holders of the run's key are admitted, so it is safe to listen on all interfaces.
        return ListenAddress("*", host)
    try:
        interface = socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:
        reason = f'"{host}" is neither an address nor a known host ({error})'
        raise invalid_address(spec, reason) from None
    ip = ipaddress.ip_address(interface)
    if ip.is_unspecified:
        raise invalid_address(spec, "teachers cannot connect to that")
    if spans_nodes and ip.is_loopback:
        raise invalid_address(
            spec,
            f"this launch has several nodes, and {interface} is reached from its own node only",
        )
    return ListenAddress(interface, host)


def invalid_address(spec: LinkSpec, reason: str) -> InputError:
    """Return the error for an invalid `[link] address`, with the ways out."""
    with_encryption = "" if spec.encrypt else ", with encrypt = true"
    return InputError(
        f'[link] address = "{spec.address}", but {reason}.\n'
        f'  set it to "{HOSTNAME}" (each student\'s own host name{with_encryption}), to an address'
        " of the students' machine, or to 127.0.0.1 if all processes are on one machine."
    )
