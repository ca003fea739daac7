"""Checkpoints: safetensors for the tensors, JSON for the rest, checksums over both.

Checksums find damage and careless changes. They are not a signature: whoever can write the folder can write them too.
A foreign checkpoint is harmless because neither format can hold code, and because sizes are checked before anything is
read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from metarl.errors import CheckpointError
from metarl.run_folder.files import guard, hidden, move_in, one_line, read_limited, sweep, sync, write_synced

FORMAT, FORMAT_VERSION = "metarl-checkpoint", 1
TENSORS, RECORD = "tensors.safetensors", "state.json"
RECORD_LIMIT = 64 * 2**20  # bytes; the library itself limits the tensors' header to 100 MB
# The errors that reading a file can raise, whoever wrote it.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError, SafetensorError)


class Checkpoint(NamedTuple):
    """A checkpoint in memory: named tensors on the CPU, and the plain data that was saved with them."""

    iteration: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save(folder: Path, final: Path, iteration: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint to `final`, a folder inside `folder`: whole, or not at all.

    Raises:
        RunFolderError: if it cannot be written.
        CheckpointError: if a tensor's name or the state is not storable.
    """
    content, record = _pack(iteration, tensors, state)
    temporary = hidden(final, "tmp")
    sweep(folder)
    with guard(f"save {final} (earlier checkpoints are untouched)"):
        try:
            temporary.mkdir()
            write_synced(temporary / TENSORS, content)
            write_synced(temporary / RECORD, record)
            sync(temporary)
            move_in(temporary, final)
        finally:
            sweep(folder)


def load(folder: Path, iteration: int) -> Checkpoint:
    """Read a checkpoint's folder and check it against its own checksums, sizes, names and shapes.

    Raises:
        CheckpointError: with what is wrong.
    """
    try:
        record = _read_record(folder / RECORD)
        if record["iteration"] != iteration:
            raise CheckpointError(f"{folder} is damaged: it holds iteration {record['iteration']!r}")
        return Checkpoint(iteration, _read_tensors(folder / TENSORS, record), dict(record["state"]))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is incomplete: it has no {Path(error.filename).name}") from None
    except UNREADABLE as error:
        raise CheckpointError(f"{folder} is unreadable: {type(error).__name__}: {one_line(error)}") from None


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder named iteration-<number>, wherever it lies.

    Raises:
        CheckpointError: if it has another name, or with what is wrong in it.
    """
    if not re.fullmatch(r"iteration-[0-9]{6,18}", folder.name) or not folder.is_dir():
        raise CheckpointError(f"{folder} is not the folder of a checkpoint or dump, such as dumps/iteration-000120")
    return load(folder, int(folder.name[10:]))


def _pack(iteration: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """The contents of both files."""
    for name in tensors:
        _check_name(name)
    # Copies: safetensors refuses tensors that share memory, as tied weights and views do.
    copies = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
    }
    content = safetensors.torch.save(copies)
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "iteration": iteration,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "tensors": _description(copies),
        "state": dict(state),
    }
    try:
        plain = json.loads(json.dumps(record))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"a checkpoint's state must be plain JSON data: {one_line(error)}") from None
    plain["record_sha256"] = _digest(plain)
    return content, json.dumps(plain, indent=1).encode()


def _read_record(path: Path) -> dict[str, Any]:
    """The content of state.json, after a check of format and checksum."""
    record = json.loads(read_limited(path, RECORD_LIMIT))
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not the state of a metarl checkpoint: it lacks the format '{FORMAT}'")
    if record["format_version"] != FORMAT_VERSION:
        given = record["format_version"]
        raise CheckpointError(f"{path} has format version {given!r}, this metarl reads {FORMAT_VERSION}: update metarl")
    if record.pop("record_sha256") != _digest(record):
        raise CheckpointError(f"{path} does not match its checksum: it is damaged or was tampered with")
    return record


def _read_tensors(path: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors, after a check of the file's size, header and checksum."""
    size = path.stat().st_size
    if not path.is_file():
        raise CheckpointError(f"{path} is damaged: it is not a plain file")
    for claim, source in ((record["bytes"], RECORD), (_size_by_header(path, size), "its header")):
        if size < claim:
            raise CheckpointError(f"{path} is truncated: {size} bytes of the {claim} that {source} states")
        if size > claim:
            raise CheckpointError(f"{path} is damaged: {size} bytes, but {source} states {claim}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise CheckpointError(f"{path} does not match its checksum: it is damaged or was tampered with")
    tensors = safetensors.torch.load(content)
    for name in tensors:
        _check_name(name)
    if _description(tensors) != record["tensors"]:
        raise CheckpointError(f"{path} holds other names, shapes or types than {RECORD} states")
    return {name: tensors[name] for name in record["tensors"]}  # in the order in which they were saved


def _size_by_header(path: Path, size: int) -> int:
    """The number of bytes that a safetensors file's header accounts for; it really has `size`."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length + 8 > size:
            return length + 8
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0)


def _description(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    return {
        name: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for name, value in tensors.items()
    }


def _check_name(name: str) -> None:
    """Names become parts of other names, and of paths in other programs: no separators, no hidden files."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise CheckpointError(f"{name!r} cannot name a tensor: use letters, digits, '_', '-' and '.'")


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
