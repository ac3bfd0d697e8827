"""Files: atomic writes and the formats of results.

A file exists whole or not at all: it is written under a temporary name in the same folder, flushed to the
disk and renamed.
"""

from __future__ import annotations

import csv
import errno
import glob
import gzip
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InputError

BRING_BACK = "copy it again, or give the command that made it again"  # what a damaged result file asks for
A_DAY = 86_400.0  # seconds after which nobody still writes what is half-written


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends without an error.

    It lies in the same folder, which is created if need be, and has the same suffixes. OSErrors of the block
    name `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{secrets.token_hex(6)}-{path.name}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        with naming(path):
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Add `path` to OSErrors of the block that name no file.

    An error from `write`, such as a full disk, knows no file name, and one from NumPy no reason either.
    """
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


def remove_partial_files(folder: str | Path, age: float = 0.0) -> None:
    """Remove half-written files and folders of killed processes that were not touched for `age` seconds."""
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent) / name for name in (*folders, *files) if name.startswith(".partial-")):
            _remove_aged(path, age)


def remove_partial_copies(path: str | Path, age: float) -> None:
    """Remove what killed processes left of a file or folder half-written, beside anything else."""
    with suppress(OSError):  # a folder that may be read alone
        for copy in Path(path).parent.glob(f".partial-*-{glob.escape(Path(path).name)}"):
            _remove_aged(copy, age)


def _remove_aged(path: Path, age: float) -> None:
    with suppress(FileNotFoundError):  # another run has finished it at this moment
        if time.time() - path.stat().st_mtime >= age:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def remove_if_empty(folder: str | Path) -> None:
    """Remove a folder that came to nothing; one with files in it stays."""
    with suppress(OSError):
        Path(folder).rmdir()


@contextmanager
def atomic_folder(path: str | Path, shared: bool = True) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends without an error.

    If another process has made `path` meanwhile, its folder stays: where it is `shared`, so that all would
    make the same, this one is dropped, else that is an OSError. An empty folder is replaced.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{secrets.token_hex(6)}-{path.name}")
    temporary.mkdir(parents=True)
    try:
        with naming(path):
            yield temporary
            for file in temporary.iterdir():
                _flush(file)
        try:
            temporary.rename(path)
        except OSError:
            if not (shared and path.exists()):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    """Wait until a file is on the disk; else a power failure could leave its name without its content."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8, with line feeds on every system."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as JSON with sorted keys."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: str | Path) -> Any:
    """Content of a JSON file.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    InputError
        The file is damaged. Writes are atomic, so no crash of this program can be the cause.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path}: damaged ({error}); remove this file, and its content is made again"
        ) from None


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write dictionaries as CSV, compressed if the name ends in `.gz`; see `csv_text`."""
    text = csv_text(columns, rows)
    if Path(path).suffix != ".gz":
        write_text(path, text)
        return
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", fileobj=packed, mtime=0) as file:  # no name and no time: equal bytes
        file.write(text.encode())
    with atomic_path(path) as temporary:
        temporary.write_bytes(packed.getvalue())


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Dictionaries as CSV.

    Floats keep six significant digits, None becomes an empty cell. Keys beyond `columns` are left out; a
    missing one is a KeyError.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _cell(row[column]) for column in columns} for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Rows of a CSV file, which may be compressed, as dictionaries of strings.

    Raises
    ------
    InputError
        A row has more or fewer cells than there are columns, or the compression is damaged.
    """
    return list(csv_rows(path))


def csv_rows(path: str | Path) -> Iterator[dict[str, str]]:
    """What `read_csv` gives, row by row."""
    opened = gzip.open if Path(path).suffix == ".gz" else open
    try:
        with opened(path, "rt", newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=1):
                if None in row or None in row.values():
                    raise ValueError(f"row {number} has not one cell per column")
                yield row
    except (ValueError, csv.Error, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: cut short or damaged ({error}); {BRING_BACK}") from None


def nearest_existing(folder: str | Path) -> Path:
    """The folder itself, or the nearest of its parents that exists."""
    folder = Path(folder)
    # Not `Path.exists`, which before Python 3.14 raises PermissionError below a closed folder.
    return next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))


def check_writable(folder: str | Path, option: str = "--reports") -> None:
    """Raise InputError early, where a folder that an option names could not be written late."""
    there = nearest_existing(folder)
    if not (there.is_dir() and os.access(there, os.W_OK)):
        fault = "read-only" if there.is_dir() else "not a folder"
        raise InputError(f"{folder}: {there} is {fault}; choose another folder with {option}")


def natural_key(path: str | Path) -> tuple[list[int | str], str]:
    """Sorting key by which `slice-2` comes before `slice-10`; different paths have different keys.

    >>> sorted(["slice-10", "slice-2", "slice-02"], key=natural_key)
    ['slice-02', 'slice-2', 'slice-10']
    """
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))], str(path)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def remembered_digest(path: str | Path, folder: str | Path) -> str:
    """Digest as by `file_digest`, remembered in `folder`/digests.

    Without that, every start would spend an hour on hashing hundreds of gigabytes. A remembered digest is
    valid while size and modification time stay the same. A file modified less than two seconds before it was
    hashed may change again within the same tick of a coarse clock, so its digest is not remembered (git's
    "racy" rule).
    """
    path = Path(path).absolute()
    memory = Path(folder) / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()}.json"
    status, now = path.stat(), time.time_ns()
    state = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    try:
        known = read_json(memory)
    except (FileNotFoundError, InputError):
        known = {}
    if state.items() <= known.items():
        return known["sha256"]
    digest = file_digest(path)
    if now - status.st_mtime_ns >= 2e9:
        write_json(memory, {**state, "sha256": digest})
    return digest
