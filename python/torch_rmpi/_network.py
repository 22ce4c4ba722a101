"""Addresses of this machine, and which address of another one answers."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import selectors
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"

#: Interfaces of container and virtual-machine bridges: every host may have the same address there, so they come last.
_BRIDGES = ("docker", "virbr", "veth", "br-", "cni", "flannel", "cali", "lxc", "podman")

_SIOCGIFCONF = 0x8912


def host_identity() -> str:
    """Names the network stack of this process: equal strings mean that the loopback address reaches the other process.

    The boot id alone is not enough: containers of one machine share it and have loopback interfaces of their own.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116  (a Path would resolve the link's text)
    except OSError:
        return ""
    return f"{boot}/{namespace}"


def loopback_works() -> bool:
    """Whether a process can reach itself by the loopback address; in a bare network namespace it cannot."""
    with contextlib.closing(socket.socket(socket.AF_INET)) as server:
        try:
            server.bind((LOOPBACK, 0))
            server.listen(1)
            with socket.create_connection(server.getsockname(), timeout=1.0):
                return True
        except OSError:
            return False


def addresses(interface: str | None = None) -> list[str]:
    """Returns the addresses at which others may reach this machine, the likeliest first.

    Args:
        interface: only those of this interface.

    Raises:
        ValueError: there is no such interface, or it has no address.
    """
    found = list(dict.fromkeys([*_ipv4(), *_ipv6()]))
    if interface is not None:
        chosen = [address for name, address in found if name == interface]
        if not chosen:
            known = ", ".join(sorted({name for name, _ in found})) or "none"
            raise ValueError(f"interface {interface!r} has no address on the host of rank 0; others: {known}")
        return chosen
    default = _default_route_address()
    outside = [(name, address) for name, address in found if name != "lo"]
    outside.sort(key=lambda item: (item[1] != default, item[0].startswith(_BRIDGES), ":" in item[1]))
    return [address for _, address in outside]


def reachable(hosts: Sequence[str], port: int, seconds: float) -> tuple[list[str], dict[str, str]]:
    """Tries all of `hosts` at once.

    Returns:
        Those that accepted a connection within `seconds`, in the order given, and why each other one did not. When one
        has accepted, the others get a tenth of a second more.
    """
    failures: dict[str, str] = {}
    accepted: set[str] = set()
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                connection = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                connection.setblocking(False)
                code = connection.connect_ex((host, port))
            except OSError as error:
                failures[host] = error.strerror or str(error)
                continue
            if code not in (0, errno.EINPROGRESS):
                failures[host] = os.strerror(code)
                continue
            selector.register(connection, selectors.EVENT_WRITE, host)
        while selector.get_map():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            for key, _ in selector.select(remaining):
                connection = key.fileobj  # type: ignore[assignment]
                selector.unregister(connection)
                code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    if not accepted:
                        deadline = min(deadline, time.monotonic() + 0.1)
                    accepted.add(key.data)
                else:
                    failures[key.data] = os.strerror(code)
    for host in hosts:
        if host not in accepted:
            failures.setdefault(host, "no answer")
    return [host for host in hosts if host in accepted], failures


def _ipv4() -> Iterator[tuple[str, str]]:
    # struct ifreq: 16 bytes of name, then a sockaddr_in whose address lies 4 bytes in; 40 bytes on 64-bit Linux.
    entry = 40 if struct.calcsize("P") == 8 else 32
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        buffer = array.array("B", bytes(entry * 256))
        request = struct.pack("iP", len(buffer), buffer.buffer_info()[0])
        length = struct.unpack("iP", fcntl.ioctl(probe, _SIOCGIFCONF, request))[0]
    data = buffer.tobytes()
    for start in range(0, length, entry):
        name = data[start : start + 16].split(b"\0", 1)[0].decode()
        yield name.split(":")[0], socket.inet_ntoa(data[start + 20 : start + 24])


def _ipv6() -> Iterator[tuple[str, str]]:
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        digits, _, _, scope, _, name = line.split()
        # Scope 0 is global; a link-local address means nothing without the interface of the one who uses it.
        if scope == "00":
            yield name, socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))


def _default_route_address() -> str | None:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            # Sends nothing: it only asks the routing table. The address is one reserved for documentation.
            probe.connect(("203.0.113.1", 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
        return address
