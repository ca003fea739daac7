"""TensorBoard's event files.

Not `torch.utils.tensorboard.SummaryWriter`: it writes from a thread, so that a killed process loses up to two minutes
of rows which a resume does not write again, and a full disk ends in the thread's traceback.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from metarl.run_folder.files import append_whole, guard, write_synced


class EventFile:
    """A new event file, to which scalars are appended.

    Args:
        folder: where TensorBoard looks for the run; made if it is missing.
        purge: readers forget what earlier files of the folder hold from this step on.

    Raises:
        RunFolderError: if it cannot be written.
    """

    def __init__(self, folder: Path, purge: int) -> None:
        # Readers take the files in the order of their names.
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{nanoseconds:09d}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        with guard(f"write {folder}"):
            folder.mkdir(exist_ok=True)
            write_synced(
                self.path,
                _records({"file_version": "brain.Event:2"}, {"step": purge, "session_log": {"status": "START"}}),
            )

    def append(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add one value to each named curve.

        Raises:
            RunFolderError: if it cannot be written; the file then ends with the step before.
        """
        values = [{"tag": name, "simple_value": value} for name, value in scalars.items()]
        append_whole(self.path, _records({"step": step, "summary": {"value": values}}))


def _records(*events: Mapping[str, Any]) -> bytes:
    """Events, with the present time, in the framing of event files."""
    # Imported here: readers of runs need no TensorBoard. By name: its message classes are made when it is imported.
    messages: Any = import_module("tensorboard.compat.proto.event_pb2")
    from tensorboard.summary.writer.record_writer import RecordWriter

    content = io.BytesIO()
    writer = RecordWriter(content)
    for fields in events:
        writer.write(messages.Event(wall_time=time.time(), **fields).SerializeToString())
    return content.getvalue()
