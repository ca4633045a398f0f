package android.graphics;

public class BitmapFactory {
    public static Bitmap decodeStream(java.io.InputStream stream) {
        throw new RuntimeException("Stub!");
    }
}
