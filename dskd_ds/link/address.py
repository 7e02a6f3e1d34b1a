"""Where a student listens, and at what address teachers reach it: `[link] address`, looked at before anything starts."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from dskd_ds.errors import InputError
from dskd_ds.spec.processes import LinkSpec

HOSTNAME = "hostname"
"""The value of `[link] address` that means each machine's own name."""


@dataclass(frozen=True)
class Place:
    """What a student binds, and what it publishes."""

    interface: str
    """An IPv4 address of this machine, or * for all that it has."""
    host: str
    """What teachers connect to."""


def place_of(spec: LinkSpec, spans_nodes: bool) -> Place:
    """Where a student of this machine listens.

    spans_nodes: whether the launch has ranks on other machines, which cannot reach a loopback address.
    Raises InputError if the address has no meaning here, or is a loopback address and `spans_nodes`.
    """
    host = socket.gethostname() if spec.address == HOSTNAME else spec.address
    if (
        spec.address == HOSTNAME and spec.encrypt
    ):  # only holders of the run's key are heard, so every interface may listen
        return Place("*", host)
    try:
        interface = socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:
        raise wrong_address(spec, f'"{host}" is no address and no known host ({error})') from None
    if ipaddress.ip_address(interface).is_unspecified:
        raise wrong_address(spec, "teachers cannot connect to that")
    if spans_nodes and ipaddress.ip_address(interface).is_loopback:
        raise wrong_address(
            spec,
            f"this launch has several nodes, and {interface} is reached from its own node only",
        )
    return Place(interface, host)


def wrong_address(spec: LinkSpec, reason: str) -> InputError:
    """The error of an address that will not do."""
    unencrypted = "" if spec.encrypt else ", with encrypt = true"
    return InputError(
        f'[link] address = "{spec.address}", but {reason}.\n  set it to "{HOSTNAME}" (each student\'s own host name'
        f"{unencrypted}), to an address of the students' machine, or to 127.0.0.1 if all processes are on one machine."
    )
