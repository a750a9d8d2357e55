"""The records of an offline W&B run: a LevelDB log of protocol buffers behind a header of seven bytes."""

from __future__ import annotations

import json
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


class OfflineRun:
    """What a `.wandb` file says: run, configuration, history (list of rows) and summary."""

    def __init__(self, file: Path):
        self.config, self.history, self.summary, self.exit_code = {}, [], {}, None
        for record in records(file):
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
