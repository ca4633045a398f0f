package dev.emberfleet;

/** No trusted key has signed these bytes, or nothing on this device can tell: they are not to be used. */
public final class UntrustedModelException extends EmberException {
    public UntrustedModelException(String message) {
        super(message);
    }
}
