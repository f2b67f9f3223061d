"""Who holds a store or a shard, by name: mode, number, and host:process:token."""

import os
import socket
from pathlib import Path


def name_owner(owner: bytes) -> str:
    """Which process an owner is, for a person."""
    mode, _, member = owner.decode(errors="replace").split(" ", 2)
    host, pid, _ = member.rsplit(":", 2)
    return f"process {pid} on {host}, {mode}"


def name_host() -> str:
    """This host and its space of process ids: containers may share a host's name, but not its processes."""
    try:
        return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 - of a link that is no path
    except OSError:
        return socket.gethostname()


def is_dead_here(owner: bytes) -> bool:
    """Whether the owner was a process of this host that is gone."""
    host, _, rest = owner.decode(errors="replace").split(" ", 2)[-1].partition(":")
    pid = rest.partition(":")[0]
    return host == name_host() and Path("/proc/self").exists() and not Path("/proc", pid).exists()
