"""The records of an offline W&B run: a LevelDB log of protocol buffers behind a header of seven bytes."""

from __future__ import annotations

import json
import time
from pathlib import Path

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 1 << 15, 7  # bytes


def records(file: Path) -> list:
    """All records of a `.wandb` file."""
    data = file.read_bytes()
    assert data[:4] == b":W&B"
    place, parts, found = HEADER, b"", []
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:  # too little for a header: padding
            place += left
            continue
        length = int.from_bytes(data[place + 4 : place + 6], "little")
        kind = data[place + 6]  # 1 whole, 2 first, 3 middle, 4 last
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def finished_records(file: Path, seconds: float = 20) -> list:
    """All records of a run that was finished: W&B's own process writes the last ones after `finish` has returned."""
    end = time.monotonic() + seconds
    while True:
        found = records(file) if file.stat().st_size >= HEADER else []
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        assert time.monotonic() < end, f"{file} is not finished: {len(found)} records and no exit"
        time.sleep(0.01)


class OfflineRun:
    """What the `.wandb` file of a finished run says: run, configuration, history (list of rows) and summary."""

    def __init__(self, file: Path):
        self.config, self.history, self.summary, self.exit_code = {}, [], {}, None
        for record in finished_records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self._update(self.config, record.run.config.update)
            elif kind == "config":
                self._update(self.config, record.config.update)
            elif kind == "history":
                self.history.append({})
                self._update(self.history[-1], record.history.item)
            elif kind == "summary":
                self._update(self.summary, record.summary.update)
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    @staticmethod
    def _update(target, items):
        for item in items:
            target[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)

    def curve(self, name: str) -> list:
        return [row[name] for row in self.history if name in row]
