"""A run folder in a bucket of a local S3 server, to measure what reads a large run on object storage.

    python tests/bench/large_bucket.py RUN PORT

moto's server, with all files of RUN in the bucket `large` under `run`. For each page of a listing moto goes
through all keys of the bucket, a quarter of a second for 170,000 of them, which no real server does: here it
finds the page in a sorted list. The server says `ready` once it answers.
"""

import bisect
import sys
import threading
from pathlib import Path

from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import S3Backend
from moto.server import ThreadedMotoServer

BUCKET = "large"


def fill(run: Path) -> list[str]:
    """Put the files of a run into the bucket; their keys, sorted."""
    backend = get_backend("s3")[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_bucket(BUCKET, "us-east-1")
    keys: list[str] = []
    for path in sorted(run.rglob("*")):
        if path.is_file():
            keys.append(f"run/{path.relative_to(run).as_posix()}")
            backend.put_object(BUCKET, keys[-1], path.read_bytes())
    return sorted(keys)


def list_by(keys: list[str]) -> None:
    """Let the server find the pages of a listing by bisection, as far as the keys are these."""

    def listed(self, bucket, prefix, delimiter, continuation_token, start_after, max_keys):
        prefix = prefix or ""
        after = continuation_token or start_after or ""
        place = max(bisect.bisect_left(keys, prefix), bisect.bisect_right(keys, after) if after else 0)
        found: list = []
        while place < len(keys) and keys[place].startswith(prefix) and len(found) < max_keys:
            key = keys[place]
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                found.append(bucket.keys[key])
                place += 1
            else:
                folder = key[: cut + 1]
                found.append(folder)
                place = bisect.bisect_left(keys, folder[:-1] + chr(ord(delimiter) + 1))
        is_cut = place < len(keys) and keys[place].startswith(prefix)
        return found, is_cut, keys[place - 1] if is_cut else None

    S3Backend.list_objects_v2 = listed


if __name__ == "__main__":
    list_by(fill(Path(sys.argv[1])))
    server = ThreadedMotoServer("127.0.0.1", int(sys.argv[2]), verbose=False)
    server.start()
    print("ready", flush=True)
    threading.Event().wait()
