"""Files: atomic writes and the formats of results.

A file either exists whole or not at all: it is written under a temporary name in the same folder, flushed to the disk and renamed.
"""

import csv
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from .errors import InputError

DIGEST_BYTES = hashlib.sha256().digest_size


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path` (same suffixes) that replaces it when the block ends without an error."""
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
def naming(path):
    """Let errors of the block tell `path`: a full disk is told by the write, which knows no name, and NumPy's knows no reason either."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


def remove_partial_files(folder, age=0.0):
    """Remove what killed processes left half written in a folder, files and folders, and did not touch for `age` seconds."""
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent) / name for name in (*folders, *files) if name.startswith(".partial-")):
            with suppress(FileNotFoundError):  # another run has finished it at this moment
                if time.time() - path.stat().st_mtime >= age:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


@contextmanager
def atomic_folder(path):
    """Yield a temporary folder beside `path` that becomes it when the block ends without an error, unless another process was first."""
    path = Path(path)
    temporary = path.with_name(f".partial-{secrets.token_hex(6)}")
    temporary.mkdir(parents=True)
    try:
        with naming(path):
            yield temporary
            for file in temporary.iterdir():
                _flush(file)
        try:
            temporary.rename(path)
        except OSError:
            if not path.exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path):
    """Wait until a file has reached the disk; else a machine that loses power may keep its name without its content."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def write_text(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path):
    """Content of a JSON file; InputError where it is damaged, which no crash of ours leaves behind."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path}: damaged ({error}); remove this file, and what it told is made again"
        ) from None


def write_csv(path, columns, rows):
    """Write dictionaries as CSV. Floats keep six significant digits, None becomes an empty cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _cell(row[column]) for column in columns} for row in rows)
    write_text(path, buffer.getvalue())


def _cell(value):
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def read_csv(path):
    """Rows of a CSV file as dictionaries of strings."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def save_checkpoint(path, value):
    """Write tensors and plain values as `torch.load` reads them, with their SHA-256 appended: PyTorch does not look at checksums."""
    buffer = (
        io.BytesIO()
    )  # torch.save itself would answer a full disk with an error of its own kind, and without the file's name
    torch.save(value, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue() + hashlib.sha256(buffer.getbuffer()).digest())


def load_checkpoint(path, device="cpu"):
    """Value of a checkpoint, tensors on `device`; InputError where it is not what was saved."""
    content = Path(path).read_bytes()
    value, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(value).digest() != digest:
        raise InputError(
            f"{path}: damaged (its checksum does not fit); remove its folder, and the model is trained again"
        )
    return torch.load(io.BytesIO(value), map_location=device, weights_only=True)


def natural_key(path):
    """Sorting key by which `slice-2` comes before `slice-10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def file_digest(path):
    """SHA-256 of a file's bytes, as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def remembered_digest(path, folder):
    """As `file_digest`, but remembered in `folder`/digests, for hashing hundreds of gigabytes takes an hour at every start.

    A memory holds while size and modification time are the same. A file modified less than two seconds before it was hashed may change
    again within the same tick of a coarse clock, so its digest is not remembered: git's "racy" rule.
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
