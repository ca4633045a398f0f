"""Says what the model sees in every new picture of a folder: one JSON line each.

    python watch.py --bundle model.ember --key trusted.key --pictures FOLDER

Start from this for a device of your own: replace the folder by a camera, or the line by a motor.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from emberfleet.core.arrays import UInt8
from emberfleet.core.errors import DataError, EmberError
from emberfleet.core.signing import VerifyKey
from emberfleet.runtime.runtime import Runtime
from emberfleet.train.data.folder import read_image_file
from emberfleet.train.data.images import SUFFIXES, decode_image

PAUSE_S = 1.0


def new_pictures(folder: Path, seen: dict[Path, int]) -> Iterator[Path]:
    """Pictures that have come, or have changed, since the last look; `seen` remembers their times."""
    found = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}
    for path in sorted(found, key=lambda path: found[path]):
        if seen.get(path) != found[path]:
            yield path
    seen.clear()
    seen.update(found)


def read(path: Path, runtime: Runtime) -> UInt8:
    """One picture, ``(1, H, W, C)``, of the size that the model takes."""
    height, width, channels = runtime.preprocessing.shape
    return decode_image(read_image_file(path), str(path), (height, width), channels)[np.newaxis]


def say(path: Path, runtime: Runtime) -> None:
    """Write one line about a picture; a damaged one is named and passed over."""
    line: dict[str, object] = {"picture": path.name}
    started = time.perf_counter()
    try:
        ((label, probability),) = runtime.predict(read(path, runtime)).top(1)[0][0]
        line |= {"label": label, "probability": round(float(probability), 4)}
        line["milliseconds"] = round((time.perf_counter() - started) * 1000, 1)
    except DataError as error:
        line["error"] = str(error)
    print(json.dumps(line), flush=True)


def main() -> None:
    """Open the model, then look at the folder once a second."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True, help="file with the public key to trust")
    parser.add_argument("--pictures", type=Path, required=True, help="folder to watch")
    parser.add_argument("--once", action="store_true", help="look once, then end")
    options = parser.parse_args()
    try:
        key = VerifyKey.from_text(options.key.read_text().strip())
        runtime = Runtime.open(options.bundle, [key])
    except (EmberError, OSError) as error:
        sys.exit(f"watch.py: {error}")
    print(json.dumps({"model": runtime.version, "backend": runtime.backend}), flush=True)
    seen: dict[Path, int] = {}
    while True:
        for path in new_pictures(options.pictures, seen):
            say(path, runtime)
        if options.once:
            return
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
