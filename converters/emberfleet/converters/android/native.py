"""libember.so for the three kinds of processor that Android phones and emulators have, without an NDK.

Compiled against headers of our own, which declare what is used of Android's C library, and linked with
stand-ins that hold its names: what is recorded is that libc, libdl and libm of the phone are needed, and
nothing else. The same sources and the same clang give the same bytes.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from emberfleet.converters.android.sources import c_sources, source_folder
from emberfleet.converters.android.tools import NativeTools, find_native_tools, run_tool

LIBRARY: Final = "libember.so"
TARGETS: Final = {
    "arm64-v8a": "aarch64-linux-android26",
    "armeabi-v7a": "armv7a-linux-androideabi26",
    "x86_64": "x86_64-linux-android26",
}
NEEDED: Final = ("libc", "libdl", "libm")
PAGE_BYTES: Final = 16384
# Contracting a * b + c would give other bits than numpy where a processor has one instruction for it.
CODE: Final = (
    "-std=c99",
    "-D_POSIX_C_SOURCE=200809L",
    "-O2",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fstack-protector-strong",
    "-nostdlibinc",
)
LINK: Final = (
    "-shared",
    "-nostdlib",
    "-fuse-ld=lld",
    "-s",
    f"-Wl,-soname,{LIBRARY}",
    f"-Wl,-z,max-page-size={PAGE_BYTES}",
    "-Wl,-z,relro,-z,now",
    "-Wl,--no-undefined,--build-id=none,--hash-style=gnu",
)
STAND_IN: Final = (
    "-shared",
    "-nostdlib",
    "-fuse-ld=lld",
    "-fPIC",
    "-fno-builtin",
    "-fno-stack-protector",
    "-w",
)


def build_libraries() -> dict[str, bytes]:
    """Compile and link libember.so: ABI -> contents.

    Raises:
        ConversionError: clang, lld or a JDK is missing, or the compiler refused.
    """
    folder, tools = source_folder(), find_native_tools()
    with tempfile.TemporaryDirectory(prefix="emberfleet-") as made, ThreadPoolExecutor() as pool:
        built = pool.map(lambda abi: _build(folder, tools, abi, Path(made)), TARGETS)
        return dict(zip(TARGETS, built, strict=True))


def _build(folder: Path, tools: NativeTools, abi: str, made: Path) -> bytes:
    clang: list[str | Path] = [tools.clang, f"--target={TARGETS[abi]}"]
    out = made / abi
    out.mkdir()
    for name in NEEDED:
        source = f"android/libc/stubs/{name}.c"
        run_tool([*clang, *STAND_IN, f"-Wl,-soname,{name}.so", "-o", out / f"{name}.so", source], folder)
    headers = [folder / "android/libc/include", folder / "runner", tools.jni, *_machine_headers(tools.jni)]
    run_tool(
        [
            *clang,
            *CODE,
            *(f"-I{path}" for path in headers),
            *c_sources(folder, abi),
            *LINK,
            f"-L{out}",
            *(f"-l{name.removeprefix('lib')}" for name in NEEDED),
            "-o",
            out / LIBRARY,
        ],
        folder,
    )
    return (out / LIBRARY).read_bytes()


def _machine_headers(jni: Path) -> list[Path]:
    """The JDK's folder of jni_md.h: linux or darwin."""
    return [path.parent for path in sorted(jni.glob("*/jni_md.h"))][:1]
