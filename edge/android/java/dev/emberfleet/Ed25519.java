package dev.emberfleet;

import java.lang.reflect.InvocationTargetException;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.Provider;
import java.security.PublicKey;
import java.security.Security;
import java.security.Signature;
import java.security.SignatureException;
import java.security.spec.X509EncodedKeySpec;

/**
 * Checks signatures by whatever this device has: java.security, else the app's Tink. Android got Ed25519 by updates of
 * a system module and not by a version of its own, so each provider is asked. AndroidKeyStore is left out: it
 * offers the algorithm for keys of its own and takes no others.
 */
final class Ed25519 {
    private static final String NAME = "Ed25519";
    private static final String KEY_STORE = "AndroidKeyStore";
    private static final String TINK = "com.google.crypto.tink.subtle.Ed25519Verify";
    /** What X.509 puts in front of the 32 bytes of a key (RFC 8410). */
    private static final byte[] KEY_HEAD = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};

    private Ed25519() {}

    /** 1 where the key has signed the message, 0 where not, -1 where nothing here can tell. C calls it. */
    static int verify(byte[] key, byte[] signature, byte[] message) {
        for (Provider provider : Security.getProviders()) {
            if (!provider.getName().startsWith(KEY_STORE)) {
                int found = byProvider(provider, key, signature, message);
                if (found >= 0) {
                    return found;
                }
            }
        }
        return byTink(key, signature, message);
    }

    private static int byProvider(Provider provider, byte[] key, byte[] signature, byte[] message) {
        byte[] encoded = new byte[KEY_HEAD.length + key.length];
        System.arraycopy(KEY_HEAD, 0, encoded, 0, KEY_HEAD.length);
        System.arraycopy(key, 0, encoded, KEY_HEAD.length, key.length);
        try {
            PublicKey made = KeyFactory.getInstance(NAME, provider).generatePublic(new X509EncodedKeySpec(encoded));
            Signature verifier = Signature.getInstance(NAME, provider);
            verifier.initVerify(made);
            verifier.update(message);
            return verifier.verify(signature) ? 1 : 0;
        } catch (SignatureException error) {
            return 0;
        } catch (GeneralSecurityException | RuntimeException error) {
            return -1;
        }
    }

    private static int byTink(byte[] key, byte[] signature, byte[] message) {
        try {
            Class<?> type = Class.forName(TINK);
            Object verifier = type.getConstructor(byte[].class).newInstance(new Object[] {key});
            type.getMethod("verify", byte[].class, byte[].class).invoke(verifier, signature, message);
            return 1;
        } catch (InvocationTargetException error) {
            return error.getCause() instanceof GeneralSecurityException ? 0 : -1;
        } catch (ReflectiveOperationException | RuntimeException error) {
            return -1;
        }
    }
}
