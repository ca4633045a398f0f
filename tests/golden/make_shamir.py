"""Writes shamir.json: secrets, coefficients and shares over the integers modulo 2**256 + 297.

Nothing of ours is imported: shares are sums of powers, the longhand way. Secrets and coefficients are SHA-512
digests of their names modulo the prime (secrets modulo 2**256), so that anybody can make them again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

PRIME = 2**256 + 297
CASES = ((1, 1), (2, 2), (2, 3), (3, 5), (7, 18), (24, 66))
EDGES = {"zero": 0, "one": 1, "largest": 2**256 - 1}
TARGET = Path(__file__).with_name("shamir.json")


def number(name: str, below: int) -> int:
    return int.from_bytes(hashlib.sha512(name.encode()).digest(), "big") % below


def case(name: str, secret: int, threshold: int, count: int) -> dict[str, Any]:
    coefficients = [number(f"{name} coefficient {power}", PRIME) for power in range(1, threshold)]
    points = [1 + 3 * index for index in range(count)]
    values = [
        (secret + sum(c * point ** (power + 1) for power, c in enumerate(coefficients))) % PRIME
        for point in points
    ]
    return {
        "secret": f"{secret:064x}",
        "threshold": threshold,
        "coefficients": [f"{value:066x}" for value in coefficients],
        "shares": {str(point): f"{value:066x}" for point, value in zip(points, values, strict=True)},
    }


def main() -> None:
    cases = [
        case(name, number(f"{name} secret", 2**256), threshold, count)
        for threshold, count in CASES
        for name in (f"{threshold} of {count}",)
    ]
    cases += [case(name, secret, 3, 4) for name, secret in EDGES.items()]
    TARGET.write_text(json.dumps(cases, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
