"""`init_method="mpi://"`: rank and size from MPI, and a store hosted by rank 0, whose address MPI carries to all.

Options, as a query: `mpi://?port=29500` fixes the port of the store (0, a free one, by default), and
`mpi://?interface=eth0` names the interface of rank 0's host by which the others reach it.

The store lives until its process exits and is used by every later rendezvous, under a prefix of its own. Rank 0 waits
in MPI_Finalize for the others, so the store is there as long as anybody needs it.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import parse_qsl, urlsplit

from torch_rmpi import _launcher_env, _network
from torch_rmpi._load import extension

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store, TCPStore

logger = logging.getLogger("torch_rmpi")

#: Where the secret lies that tells the store of this job from any other server that answers at the same address.
_TOKEN_KEY = "torch_rmpi/token"

#: How long a client tries the addresses of rank 0 before it gives up, if the timeout allows that much.
_CONNECT_SECONDS = 20.0


class _Invitation(TypedDict):
    """What rank 0 sends to all."""

    error: str
    generation: int
    host: str
    port: int
    token: str
    addresses: list[str]


@dataclass
class _Hub:
    """This process's connection to the store; on rank 0 the server too."""

    store: TCPStore
    token: str
    port: int
    addresses: list[str]


@dataclass
class _State:
    """What is kept from one rendezvous to the next."""

    hub: _Hub | None = None
    #: On rank 0: how many rendezvous there were. It counts for all, so that no rank can be off by one.
    generation: int = 0


_state = _State()


def handler(url: str, timeout: timedelta | None = None, **_: Any) -> Iterator[tuple[Store, int, int]]:
    """The rendezvous handler of `mpi://`; a collective over the MPI world.

    Raises:
        ValueError: an option that is not understood, or a rank or world size that is not MPI's.
        RuntimeError: the launcher belongs to another MPI, or rank 0 cannot host or be reached.
        torch.distributed.DistBackendError: a rank did not come in time.
    """
    from torch.distributed.constants import default_pg_timeout

    options = _options(url)
    module = extension()
    timeout = timeout or default_pg_timeout
    _launcher_env.claim()
    module.start(timeout)
    rank, size = module.world_rank(), module.world_size()
    _launcher_env.require_no_singletons(size)
    for name, actual in (("rank", rank), ("world_size", size)):
        given = options.pop(name, -1)
        if given not in (-1, actual):
            raise ValueError(
                f"{name}={given} was given to init_process_group, but MPI says {name}={actual}. With mpi:// leave rank "
                "and world_size out"
            )
    yield meet(timeout, purpose=f"the rendezvous {url}", **options)
    raise RuntimeError("mpi:// cannot rendezvous a second time; call init_process_group again")


def meet(
    timeout: timedelta, *, purpose: str = "mpi://", port: int = 0, interface: str | None = None
) -> tuple[Store, int, int]:
    """Brings all processes of the MPI world to one store; every one of them has to call it.

    Args:
        timeout: for the whole of it, and the store's own default afterwards.
        purpose: what it is for, for messages.

    Returns:
        A store under a prefix that no earlier call had, the MPI world rank and the MPI world size.

    Raises:
        As `handler`.
    """
    from torch._C._distributed_c10d import PrefixStore

    module = extension()
    _launcher_env.claim()
    module.start(timeout)
    rank, size = module.world_rank(), module.world_size()
    _launcher_env.require_no_singletons(size)
    deadline = time.monotonic() + timeout.total_seconds()
    if rank == 0:
        invitation, failure = _invite(module, timeout, port, interface)
        module.world_broadcast(json.dumps(invitation), _milliseconds(deadline))
        if failure is not None:
            raise failure
    else:
        invitation = json.loads(module.world_broadcast("", _milliseconds(deadline)))
        if invitation["error"]:
            raise RuntimeError(f"{purpose}: rank 0 could not host the store: {invitation['error']}")
        _join(module, invitation, timeout, deadline)
    if _state.hub is None:
        raise RuntimeError(f"{purpose}: no store")
    _state.hub.store.set_timeout(timeout)
    logger.debug("%s: rank %d of %d, store at port %d", purpose, rank, size, _state.hub.port)
    return PrefixStore(f"torch_rmpi/{invitation['generation']}", _state.hub.store), rank, size


def _invite(
    module: ModuleType, timeout: timedelta, port: int, interface: str | None
) -> tuple[_Invitation, Exception | None]:
    """On rank 0: hosts the store if it is not there yet. A failure travels to the others, who would wait otherwise."""
    failure: Exception | None = None
    try:
        if _state.hub is None or port not in (0, _state.hub.port):
            _state.hub = _host(module, timeout, port)
        addresses = _network.addresses(interface)
        _state.hub.addresses = addresses
    except Exception as error:
        failure = error
    _state.generation += 1
    invitation = _Invitation(
        error=f"{type(failure).__name__}: {failure}" if failure is not None else "",
        generation=_state.generation,
        host=_network.host_identity(),
        port=_state.hub.port if _state.hub is not None else 0,
        token=_state.hub.token if _state.hub is not None else "",
        addresses=_state.hub.addresses if _state.hub is not None else [],
    )
    return invitation, failure


def _host(module: ModuleType, timeout: timedelta, port: int) -> _Hub:
    from torch._C._distributed_c10d import TCPStore

    # The server listens on every interface; the name is only how its own process connects to it.
    own = _network.LOOPBACK if _network.loopback_works() else next(iter(_network.addresses()), _network.LOOPBACK)
    store = TCPStore(own, port, is_master=True, timeout=timeout, wait_for_workers=False)
    token = secrets.token_hex(16)
    store.set(_TOKEN_KEY, token)
    # The clients of others must not lose the server when Python tears down its modules.
    module.keep_alive(store)
    return _Hub(store, token, store.port, [])


def _join(module: ModuleType, invitation: _Invitation, timeout: timedelta, deadline: float) -> None:
    """On the other ranks: connects to rank 0's store, unless that was done before."""
    if _state.hub is not None and _state.hub.token == invitation["token"]:
        return
    from torch._C._distributed_c10d import TCPStore
    from torch.distributed import DistNetworkError

    candidates = list(invitation["addresses"])
    own = _network.host_identity()
    if own and own == invitation["host"]:
        candidates.insert(0, _network.LOOPBACK)
    port = invitation["port"]
    seconds = max(0.1, min(_CONNECT_SECONDS, deadline - time.monotonic()))
    answering, failures = _network.reachable(candidates, port, seconds)
    for address in answering:
        remaining = timedelta(seconds=max(1.0, min(_CONNECT_SECONDS, deadline - time.monotonic())))
        try:
            store = TCPStore(address, port, is_master=False, timeout=remaining, wait_for_workers=False)
            if store.check([_TOKEN_KEY]) and store.get(_TOKEN_KEY).decode() == invitation["token"]:
                store.set_timeout(timeout)
                _state.hub = _Hub(store, invitation["token"], port, candidates)
                module.keep_alive(store)
                return
            failures[address] = "the server there belongs to another job"
        except DistNetworkError as error:
            failures[address] = str(error).splitlines()[0]
    tried = "; ".join(f"{address}: {reason}" for address, reason in failures.items()) or "rank 0 has no address"
    raise RuntimeError(
        f"mpi://: rank {module.world_rank()} on {os.uname().nodename} cannot reach the store of rank 0 at port {port} "
        f"({tried}). If a firewall is in between, open a port and name it: init_method='mpi://?port=29500'; choose the "
        "network with 'mpi://?interface=NAME'"
    )


def _options(url: str) -> dict[str, Any]:
    """Takes `mpi://?name=value&...` apart.

    Raises:
        ValueError: there is a host, a path, or an option that is unknown, doubled or no number.
    """
    parts = urlsplit(url)
    if parts.netloc or parts.path.strip("/") or parts.fragment:
        raise ValueError(
            f"{url}: mpi:// takes no host and no path, for MPI knows them; its options are mpi://?port=N&interface=NAME"
        )
    options: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in ("rank", "world_size", "port", "interface"):
            raise ValueError(f"{url}: mpi:// has no option {name!r}; it has 'port' and 'interface'")
        if name in options:
            raise ValueError(f"{url}: the option {name!r} is given twice")
        if name == "interface":
            options[name] = value
            continue
        try:
            options[name] = int(value)
        except ValueError:
            raise ValueError(f"{url}: the option {name!r} must be a number, got {value!r}") from None
    if not 0 <= options.get("port", 0) < 2**16:
        raise ValueError(f"{url}: the option 'port' must be 0 to 65535")
    return options


def _milliseconds(deadline: float) -> int:
    return max(1, int((deadline - time.monotonic()) * 1000))
