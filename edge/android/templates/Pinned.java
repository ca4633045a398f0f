package dev.emberfleet;

/** Whom and what this library trusts; written when it was made. */
final class Pinned {
    private Pinned() {}

    /** The public key that must have signed the model. */
    static String[] keys() {
        return new String[] {"@KEY@"};
    }

    /** SHA-256 of the .tflite, in base64. */
    static String tfliteDigest() {
        return "@TFLITE@";
    }
}
