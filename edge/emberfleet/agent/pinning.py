"""TLS to a server that is known by its certificate's pin, without any certificate authority.

A handshake proves that the other side holds the private key of the certificate it shows; the pin says
whose key that has to be. Nothing is sent on a connection before both were checked.
"""

from __future__ import annotations

import hmac
import ssl
from typing import Any

from emberfleet.core.tokens import PinError, pin_of


class _PinnedContext(ssl.SSLContext):
    """Shakes hands, then compares the pin, on every connection."""

    pin: str

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        connection = super().wrap_socket(*arguments, **options)
        try:
            connection.do_handshake()
            shown = connection.getpeercert(binary_form=True)
            if shown is None or not hmac.compare_digest(pin_of(shown), self.pin):
                raise PinError(
                    "the server shows another certificate than the one this device knows it by: somebody may "
                    "be in between. If the fleet's owner changed it, ask for its pin (emberfleet server pin) "
                    "and run emberfleet device pin"
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        raise NotImplementedError("a pinned connection is made over a socket")


def pinned_context(pin: str) -> ssl.SSLContext:
    """Settings for connections to the one server whose certificate has this pin."""
    context = _PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.pin = pin
    return context
