package dev.emberfleet;

import android.content.Context;
import android.graphics.Bitmap;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.util.Base64;

/**
 * A signed model that classifies images by OpenCL.
 *
 * <pre>
 * try (EmberModel model = EmberModel.open(context)) {
 *     EmberResult result = model.classify(bitmap);
 *     show(result.label(), result.score());
 * } catch (NoOpenClException error) {
 *     ByteBuffer tflite = EmberModel.readTflite(context); // for LiteRT
 * }
 * </pre>
 *
 * Opening verifies every byte and builds kernels: call it off the main thread, once. One thread at a time runs in a
 * model; others wait.
 */
public final class EmberModel implements AutoCloseable {
    private static final String BUNDLE_ASSET = "emberfleet/model.ember";
    private static final String TFLITE_ASSET = "emberfleet/model.tflite";
    private static final int MAX_BYTES = 256 << 20;
    private static final int KEY_BYTES = 32;

    static {
        System.loadLibrary("ember");
    }

    private final String[] labels;
    private final String[] about;
    private long handle;

    private EmberModel(long handle) {
        this.handle = handle;
        this.labels = nativeLabels(handle);
        this.about = nativeAbout(handle);
    }

    /** Opens the model of this library, which must be signed by the key that the library was made with. */
    public static EmberModel open(Context context) throws IOException {
        return open(context, BUNDLE_ASSET, Pinned.keys());
    }

    /**
     * Opens a model among the app's assets.
     *
     * @param publicKeys whom to trust: 32 bytes each, in base64, as `emberfleet convert` prints them; one suffices
     * @throws UntrustedModelException none of them has signed it, or nothing here can tell: add Tink to the app
     * @throws NoOpenClException there is no OpenCL: take the .tflite
     */
    public static EmberModel open(Context context, String asset, String... publicKeys) throws IOException {
        return open(readAsset(context, asset), publicKeys);
    }

    /** Opens the bytes of a bundle, such as one that was downloaded. */
    public static EmberModel open(byte[] bundle, String... publicKeys) throws IOException {
        ByteArrayOutputStream keys = new ByteArrayOutputStream();
        for (String text : publicKeys) {
            byte[] key = Base64.getDecoder().decode(text);
            if (key.length != KEY_BYTES) {
                throw new IllegalArgumentException("a public key is 32 bytes in base64");
            }
            keys.write(key);
        }
        return new EmberModel(nativeOpen(bundle, keys.toByteArray()));
    }

    /** Whether an OpenCL device can be used; where not, `open` throws {@link NoOpenClException}. */
    public static native boolean hasOpenCl();

    /** Where the same network lies for LiteRT, among the app's assets, unchecked: see `readTflite`. */
    public static String tfliteAsset() {
        return TFLITE_ASSET;
    }

    /** The .tflite for LiteRT, in direct memory, after its SHA-256 was compared with the one made into this library. */
    public static ByteBuffer readTflite(Context context) throws IOException {
        byte[] bytes = readAsset(context, TFLITE_ASSET);
        byte[] digest;
        try {
            digest = MessageDigest.getInstance("SHA-256").digest(bytes);
        } catch (GeneralSecurityException error) {
            throw new UntrustedModelException("no SHA-256 here");
        }
        if (!MessageDigest.isEqual(digest, Base64.getDecoder().decode(Pinned.tfliteDigest()))) {
            throw new UntrustedModelException("the .tflite is not the one that this library was made with");
        }
        ByteBuffer buffer = ByteBuffer.allocateDirect(bytes.length).order(ByteOrder.nativeOrder());
        buffer.put(bytes);
        buffer.rewind();
        return buffer;
    }

    /** Scales the image until it covers what the network reads, cuts it around its centre, and classifies it. */
    public EmberResult classify(Bitmap bitmap) throws IOException {
        Bitmap plain = bitmap;
        if (bitmap.getConfig() != Bitmap.Config.ARGB_8888) {
            plain = bitmap.copy(Bitmap.Config.ARGB_8888, false);
        }
        int width = plain.getWidth();
        int height = plain.getHeight();
        int[] pixels = new int[width * height];
        plain.getPixels(pixels, 0, width, 0, 0, width, height);
        return classify(pixels, width, height);
    }

    /** The same for pixels as Bitmap.getPixels gives them: 0xAARRGGBB, rows from the top. */
    public synchronized EmberResult classify(int[] pixels, int width, int height) throws IOException {
        if (handle == 0) {
            throw new IllegalStateException("the model is closed");
        }
        return new EmberResult(labels, nativeClassify(handle, pixels, width, height));
    }

    /** The classes, in the order of the scores. */
    public String[] labels() {
        return labels.clone();
    }

    /** The model's name and version, the launch plan in use and the OpenCL device: four texts. */
    public String[] about() {
        return about.clone();
    }

    /** Frees what the model holds on the device; a closed model may be closed again. */
    @Override
    public synchronized void close() {
        nativeClose(handle);
        handle = 0;
    }

    private static byte[] readAsset(Context context, String asset) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        byte[] piece = new byte[65536];
        InputStream stream = context.getAssets().open(asset);
        try {
            int count = stream.read(piece);
            while (count >= 0) {
                bytes.write(piece, 0, count);
                if (bytes.size() > MAX_BYTES) {
                    throw new EmberException("the asset is larger than 256 MiB");
                }
                count = stream.read(piece);
            }
        } finally {
            stream.close();
        }
        return bytes.toByteArray();
    }

    private static native long nativeOpen(byte[] bundle, byte[] keys) throws IOException;

    private static native String[] nativeLabels(long handle);

    private static native String[] nativeAbout(long handle);

    private static native float[] nativeClassify(long handle, int[] pixels, int width, int height) throws IOException;

    private static native void nativeClose(long handle);
}
