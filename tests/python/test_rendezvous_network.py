"""The parts of `mpi://` that need no MPI: its options, this host's addresses, and finding the one that answers."""

from __future__ import annotations

import contextlib
import socket

import pytest
from torch_rmpi import _network, _rendezvous


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("mpi://", {}),
        ("mpi://?port=29500&interface=eth0", {"port": 29500, "interface": "eth0"}),
        # What torch appends.
        ("mpi://?rank=1&world_size=-1", {"rank": 1, "world_size": -1}),
    ],
)
def test_options(url: str, options: dict[str, object]) -> None:
    assert _rendezvous._options(url) == options


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mpi://host:29500", "no host"),
        ("mpi:///tmp/file", "no path"),
        ("mpi://?prot=1", "no option 'prot'"),
        ("mpi://?port=many", "must be a number"),
        ("mpi://?port=70000", "0 to 65535"),
        ("mpi://?port=1&port=2", "given twice"),
    ],
)
def test_options_that_are_refused(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        _rendezvous._options(url)


def test_the_address_that_answers_is_found() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        # Nobody listens at the second and third; the last is no address at all.
        answering, failures = _network.reachable(["127.0.0.1", "127.0.0.2", "::1", "no-address"], port, 5.0)
    assert answering == ["127.0.0.1"]
    assert failures.keys() == {"127.0.0.2", "::1", "no-address"}


def test_none_answers() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    assert _network.reachable(["127.0.0.1"], port, 5.0) == ([], {"127.0.0.1": "Connection refused"})
    assert _network.reachable([], port, 5.0) == ([], {})


def test_addresses_of_this_host() -> None:
    for address in _network.addresses():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with contextlib.closing(socket.socket(family)) as probe:
            probe.bind((address, 0))
    with pytest.raises(ValueError, match="interface 'no-such' has no address"):
        _network.addresses("no-such")


def test_an_interface_has_its_addresses() -> None:
    if _network.loopback_works():
        assert _network.LOOPBACK in _network.addresses("lo")


def test_the_host_has_one_identity() -> None:
    assert _network.host_identity() == _network.host_identity() != ""
