"""One run at a time in a folder, on one machine or on several that share a disk.

The lock is a file that names its holder, which touches it every few seconds. If the holder runs on this
machine, its process is looked up. If it runs elsewhere, it counts as dead once the file has not been touched
for `PATIENCE` seconds. Both times compared are stamps of the file server, so clocks may differ. A holder that
was wrongly taken for dead (on a suspended machine, say) finds its lock replaced, and stops.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from . import stopping
from .errors import InputError
from .paths import LOCK

HEARTBEAT = 10.0  # seconds between two touches
PATIENCE = 60.0  # seconds without a touch after which a holder elsewhere counts as dead


@contextmanager
def locked(folder: str | Path, waiting: Callable[[str], object] = lambda text: None) -> Iterator[None]:
    """Hold a folder while the block runs; it is created if need be.

    Parameters
    ----------
    folder : path
        The folder to hold.
    waiting : callable
        Called with a line of text while a holder on another machine is watched for signs of life.

    Raises
    ------
    InputError
        Another process holds the folder and is alive, or the folder cannot be written.
    KeyboardInterrupt
        The program is to end while it waits.
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
            f"{folder}: cannot be written ({error.strerror}); "
            "correct its permissions, or choose another folder with --runs"
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


def describe(folder: str | Path) -> str | None:
    """Who holds a folder, in words; None if nobody does."""
    path = Path(folder) / LOCK
    holder = _holder(path)
    if holder is None:
        return None
    alive = _alive(holder)
    if alive is None:
        try:
            state = f"last sign of life {_age(path):.0f} s ago"
        except OSError:  # whoever asks may only read here
            state = "on another machine"
    else:
        state = "running" if alive else "ended without releasing it"
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}, {state}"


def _take(path: Path, mine: dict) -> bool:
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


def _holder(path: Path) -> dict | None:
    """Content of the lock; empty while it is being written, None without a lock."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def _remove_if_stale(path: Path, waiting: Callable[[str], object]) -> None:
    """Remove the lock of a dead holder, or raise InputError if the holder is alive.

    After a return, or a FileNotFoundError, the folder may be free.
    """
    touched, holder = path.stat().st_mtime_ns, _holder(path)
    if holder is None:
        return
    if _holder_lives(path, holder, touched, waiting):
        raise InputError(
            f"{path.parent} is in use by {describe(path.parent)}; let it finish, or choose another --name"
        )
    # Several processes may find the lock stale, and one of them may have put up its own by now. So only the
    # one that makes the guard removes the lock, and only this very lock.
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


def _holder_lives(path: Path, holder: dict, touched: int, waiting: Callable[[str], object]) -> bool:
    """Whether the holder is alive; one elsewhere is watched until it touches its lock or time is up."""
    alive = _alive(holder)
    if alive is None and _age(path) < PATIENCE:
        waiting(
            f"{path.parent} is held by {describe(path.parent)}; "
            f"waiting up to {PATIENCE:.0f} s for its next sign of life"
        )
    while alive is None and _age(path) < PATIENCE:
        stopping.check()
        time.sleep(min(1.0, HEARTBEAT / 10))
        if path.stat().st_mtime_ns != touched:
            alive = True
    return bool(alive)


def _beat(path: Path, mine: dict, released: Event) -> None:
    """Touch the lock until it is released. Missing it three times in a row ends the program."""
    missed, reason = 0, ""
    while not released.wait(HEARTBEAT):
        try:
            if _holder(path) == mine:
                os.utime(path)
                missed = 0
            else:
                missed, reason = missed + 1, "was lost to another process"
        except OSError as error:  # of a disk that cannot be reached
            missed, reason = missed + 1, f"could not be touched ({error.strerror})"
        if missed == 3:
            stopping.request(f"the lock of {path.parent} {reason}")


def _age(path: Path) -> float:
    """Seconds since a file was touched, by the clock of its disk."""
    probe = path.with_name(f".partial-{secrets.token_hex(6)}-probe")
    try:
        probe.touch()
        return max(0.0, (probe.stat().st_mtime_ns - path.stat().st_mtime_ns) / 1e9)
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _machine() -> list[str]:
    """What all processes that can see each other share: host, boot, and process namespace (containers)."""
    parts = [socket.gethostname()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            parts.append(read())
        except OSError:
            parts.append("")
    return parts


def _began(pid: int) -> str:
    """Start time of a process, in clock ticks since boot; process numbers are reused, these are not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        zombie = fields[0] == "Z"  # it has ended, and waits for its parent to notice
        return "" if zombie else fields[19]
    except (OSError, IndexError):
        return ""


def _alive(holder: dict) -> bool | None:
    """Whether a holder on this machine is alive; None for one elsewhere."""
    if holder.get("machine") != _machine():
        return None
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _began(holder["pid"]) == holder["began"]
