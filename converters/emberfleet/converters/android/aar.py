"""A bundle as an Android library: what a Gradle project takes as one file.

================================================  ==================================================
``AndroidManifest.xml``                           API 26 and later; may load the vendor's OpenCL
``classes.jar``                                   ``dev.emberfleet.EmberModel`` and what it gives
``jni/ABI/libember.so``                           the runner, for each of `native.TARGETS`
``assets/emberfleet/model.ember``                 the bundle
``assets/emberfleet/model.tflite``                the same network for LiteRT
``proguard.txt``                                  what a shrinker must leave as it is
``R.txt``                                         the resources: none
``META-INF/com/android/build/gradle/...``         what the app must be compiled with
================================================  ==================================================

The key that must have signed the bundle, and the .tflite's SHA-256, are constants of the code.
docs/guides/android.md, docs/decisions/android.md.
"""

from __future__ import annotations

from typing import Final

from emberfleet.converters.android.classes import Pins, build_classes
from emberfleet.converters.android.native import LIBRARY, build_libraries
from emberfleet.converters.android.packing import Entry, pack
from emberfleet.converters.android.sources import source_folder
from emberfleet.core.bundle import TFLITE_PART, Bundle
from emberfleet.core.signing import VerifyKey

BUNDLE_ASSET: Final = "emberfleet/model.ember"
TFLITE_ASSET: Final = "emberfleet/model.tflite"
METADATA: Final = "META-INF/com/android/build/gradle/aar-metadata.properties"


def build_aar(bundle: bytes, key: VerifyKey) -> bytes:
    """Write the Android library around a bundle; the same bundle and compilers give the same bytes.

    Args:
        bundle: What `converters.bundle.build_bundle` wrote.
        key: Who signed it; the library trusts this key and no other.

    Raises:
        SignatureError: `key` has not signed the bundle.
        ConversionError: a program is missing that is needed to build, or it failed.
    """
    tflite = Bundle.open(bundle, [key]).part(TFLITE_PART)
    templates = source_folder() / "android" / "templates"
    entries = [
        Entry("AndroidManifest.xml", (templates / "library.xml").read_bytes()),
        Entry("classes.jar", build_classes(Pins.of(key, tflite))),
        Entry("R.txt", b""),
        Entry("proguard.txt", (templates / "proguard.txt").read_bytes()),
        Entry(METADATA, (templates / "aar-metadata.properties").read_bytes()),
        Entry(f"assets/{BUNDLE_ASSET}", bundle),
        Entry(f"assets/{TFLITE_ASSET}", tflite),
    ]
    entries += [Entry(f"jni/{abi}/{LIBRARY}", data) for abi, data in build_libraries().items()]
    return pack(entries)
