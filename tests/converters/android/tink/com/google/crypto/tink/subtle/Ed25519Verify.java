package com.google.crypto.tink.subtle;

import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.Provider;
import java.security.Signature;
import java.security.spec.X509EncodedKeySpec;
import java.util.Base64;
import java.util.ServiceLoader;

/** Has Tink's constructor and method; what it computes comes from a provider that the process no longer offers. */
public final class Ed25519Verify {
    /** Not in the list of providers, so whoever asks java.security finds nothing. */
    private static final Provider PROVIDER = own();
    private static final String HEAD = "MCowBQYDK2VwAyEA";

    private final byte[] key;

    public Ed25519Verify(byte[] publicKey) {
        key = publicKey.clone();
    }

    public void verify(byte[] signature, byte[] data) throws GeneralSecurityException {
        byte[] head = Base64.getDecoder().decode(HEAD);
        byte[] encoded = new byte[head.length + key.length];
        System.arraycopy(head, 0, encoded, 0, head.length);
        System.arraycopy(key, 0, encoded, head.length, key.length);
        Signature verifier = Signature.getInstance("Ed25519", PROVIDER);
        verifier.initVerify(KeyFactory.getInstance("Ed25519", PROVIDER).generatePublic(new X509EncodedKeySpec(encoded)));
        verifier.update(data);
        if (!verifier.verify(signature)) {
            throw new GeneralSecurityException("Signature check failed.");
        }
    }

    private static Provider own() {
        for (Provider provider : ServiceLoader.load(Provider.class, ClassLoader.getSystemClassLoader())) {
            if (provider.getService("KeyFactory", "Ed25519") != null) {
                return provider;
            }
        }
        throw new IllegalStateException("this JDK has no Ed25519");
    }
}
