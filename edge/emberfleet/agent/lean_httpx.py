"""httpx without its command line, for which it loads click, rich and pygments: 5 MiB less in every device.

`httpx` itself says that they are optional: it goes on when ``httpx._main`` cannot be imported.
"""

from __future__ import annotations

import sys

_UNWANTED = "httpx._main"
if "httpx" not in sys.modules:
    # With None there, Python says that there is no such module.
    sys.modules[_UNWANTED] = None  # type: ignore[assignment]

import httpx  # noqa: E402

if sys.modules.get(_UNWANTED, httpx) is None:
    del sys.modules[_UNWANTED]

__all__ = ["httpx"]
