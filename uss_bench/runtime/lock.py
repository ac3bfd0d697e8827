"""One process at a time in a run folder, on one machine or on several that share a disk.

The lock is a file that names its holder, which touches it every few seconds. A holder on this machine is looked up among the
processes. One elsewhere is believed dead when its file has gone untouched for `PATIENCE`; both times are stamps of the file server, so
clocks that differ do no harm. A holder that was taken for dead (a suspended machine) finds its lock replaced and stops.
"""

import json
import os
import secrets
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from . import stopping
from .errors import InputError
from .paths import LOCK

HEARTBEAT = 10.0  # seconds between two touches
PATIENCE = 60.0  # seconds without one after which a holder elsewhere is believed dead


@contextmanager
def locked(folder, waiting=lambda text: None):
    """Hold `folder`, made if need be, for the time of the block. `waiting` is told when a lock from elsewhere is being watched.

    Raises
    ------
    InputError
        Another process holds the folder and lives, or the folder cannot be written.
    """
    path = Path(folder) / LOCK
    mine = {
        "machine": _machine(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "began": _began(os.getpid()),
    }
    mine["token"] = secrets.token_hex(8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _take(path, mine):
            with suppress(FileNotFoundError):  # released meanwhile
                _remove_if_stale(path, waiting)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); mend its permissions or choose another folder with --runs"
        ) from None
    released = Event()
    heart = Thread(target=_beat, args=(path, mine, released), daemon=True)
    heart.start()
    try:
        yield
    finally:
        released.set()
        heart.join()
        if _holder(path) == mine:
            path.unlink(missing_ok=True)


def describe(folder):
    """Who holds a run folder, as text, or None."""
    path = Path(folder) / LOCK
    holder = _holder(path)
    if holder is None:
        return None
    alive = _alive(holder)
    state = (
        f"last sign of life {_age(path):.0f} s ago"
        if alive is None
        else "running"
        if alive
        else "ended without releasing it"
    )
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}, {state}"


def _take(path, mine):
    try:
        # Exclusive creation is atomic on local disks and on NFS.
        with open(path, "x", encoding="utf-8") as file:
            try:
                json.dump(mine, file)
                file.flush()
            except OSError:  # a full disk; an empty lock would keep the next process waiting
                path.unlink()
                raise
    except FileExistsError:
        return False
    return True


def _holder(path):
    """Content of the lock; empty while it is being written, None without a lock."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def _remove_if_stale(path, waiting):
    """Return or raise FileNotFoundError when there may be no lock any more; InputError if its holder lives."""
    touched, holder = path.stat().st_mtime_ns, _holder(path)
    if holder is None:
        return
    alive = _alive(holder)
    while alive is None and _age(path) < PATIENCE:
        waiting(f"{describe(path.parent)} holds {path.parent}; waiting up to {PATIENCE:.0f} s for another")
        stopping.check()
        time.sleep(min(1.0, HEARTBEAT / 10))
        if path.stat().st_mtime_ns != touched:
            alive = True
    if alive:
        raise InputError(
            f"{path.parent} is in use by {describe(path.parent)}; let it finish, or choose another --name"
        )
    # Only who makes the guard removes this very lock: of several that find it stale, one may have put up a lock of its own meanwhile.
    guard = path.with_name(f".partial-{holder.get('token', '')}-{LOCK}")
    try:
        guard.touch(exist_ok=False)
    except FileExistsError:
        if _age(guard) > PATIENCE:  # its maker was killed
            guard.unlink(missing_ok=True)
        stopping.check()
        time.sleep(0.01)
        return
    try:
        if _holder(path) == holder and path.stat().st_mtime_ns == touched:
            path.unlink()
    finally:
        guard.unlink(missing_ok=True)


def _beat(path, mine, released):
    missed = 0
    while not released.wait(HEARTBEAT):
        try:
            missed = 0 if _holder(path) == mine else missed + 1
            if not missed:
                os.utime(path)
        except OSError:
            missed += 1
        if missed == 3:
            stopping.request(f"the lock of {path.parent} was lost to another process")


def _age(path):
    """Seconds since a lock was touched, by the clock of its disk."""
    probe = path.with_name(f".partial-{secrets.token_hex(6)}-probe")
    try:
        probe.touch()
        return max(0.0, (probe.stat().st_mtime_ns - path.stat().st_mtime_ns) / 1e9)
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _machine():
    """What processes that can see each other have in common: the host, its last start, the process namespace of a container."""
    parts = [socket.gethostname()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            parts.append(read())
        except OSError:
            parts.append("")
    return parts


def _began(pid):
    """When a process began, in ticks since the machine did, which tells it from a later one of the same number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (
            "" if fields[0] == "Z" else fields[19]
        )  # a zombie has ended, and waits for its parent to notice
    except (OSError, IndexError):
        return ""


def _alive(holder):
    """Whether a holder on this machine lives; None for one elsewhere."""
    if holder.get("machine") != _machine():
        return None
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _began(holder["pid"]) == holder["began"]
