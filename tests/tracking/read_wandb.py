"""Read a .wandb transaction log (LevelDB log format) without the wandb CLI."""

import json
import struct
import sys
from pathlib import Path


def records(path):
    from wandb.proto import wandb_internal_pb2 as pb

    data, pos, part = Path(path).read_bytes(), 7, b""
    assert data[:4] == b":W&B", "not a .wandb file"
    while pos + 7 <= len(data):
        if 32768 - pos % 32768 < 7:  # block trailer
            pos += 32768 - pos % 32768
            continue
        _, n, kind = struct.unpack_from("<IHB", data, pos)  # crc32, length, 1 full 2 first 3 middle 4 last
        chunk = data[pos + 7 : pos + 7 + n]
        pos += 7 + n
        if kind == 0 or len(chunk) < n:
            return  # torn tail of a killed run
        part = chunk if kind in (1, 2) else part + chunk
        if kind in (1, 4):
            r = pb.Record()
            r.ParseFromString(part)
            yield r


def history(path):
    for r in records(path):
        if r.WhichOneof("record_type") == "history":
            yield {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in r.history.item}


if __name__ == "__main__":
    for row in history(sys.argv[1]):
        print(row)
