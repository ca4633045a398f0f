package dev.emberfleet;

/** This device has no OpenCL that an app may use: run {@link EmberModel#readTflite} with LiteRT instead. */
public final class NoOpenClException extends EmberException {
    public NoOpenClException(String message) {
        super(message);
    }
}
