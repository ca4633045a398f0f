"""One inference in a process as small as it can be: its time, from the import on, and its memory.

``python -m benchmarks.measure.one_inference litert MODEL.tflite``, or
``... BACKEND BUNDLE KEY PRECISION``: opens the bundle and predicts one black image. This module imports
nothing that it does not need.
"""

from __future__ import annotations

import json
import sys
import time


def peak_mib() -> float:
    """As `emberfleet.runtime.measuring.peak_mib`, without what that module imports."""
    with open("/proc/self/status") as status:
        return round(next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024, 1)


def run_litert(path: str) -> tuple[float, str]:
    """The interpreter and numpy alone; the time at which their import was done."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    imported = time.time()
    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    interpreter.set_tensor(source["index"], np.zeros(source["shape"], np.int8))
    interpreter.invoke()
    interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return imported, "litert"


def run_ours(backend: str, bundle: str, key: str, precision: str) -> tuple[float, str]:
    """A bundle through `Runtime`, its signature verified; the time at which the import was done."""
    from emberfleet.runtime import Runtime

    imported = time.time()
    import numpy as np

    from emberfleet.core.signing import VerifyKey

    runtime = Runtime.open(bundle, [VerifyKey.from_text(key)], backend, precision)
    runtime.logits(np.zeros((1, *runtime.preprocessing.shape), np.uint8))
    return imported, runtime.backend


def main() -> None:
    """Run, and tell."""
    how, path, *rest = sys.argv[1:]
    imported, backend = run_litert(path) if how == "litert" else run_ours(how, path, rest[0], rest[1])
    done = time.time()
    print(json.dumps({"backend": backend, "done": done, "seconds": done - imported, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
