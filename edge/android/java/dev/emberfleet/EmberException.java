package dev.emberfleet;

import java.io.IOException;

/** A model could not be read or run; the message says why. */
public class EmberException extends IOException {
    public EmberException(String message) {
        super(message);
    }
}
