package android.graphics;

import java.awt.image.BufferedImage;

/** A picture of the desktop with the methods of Android's that the library calls. */
public class Bitmap {
    public enum Config {
        ALPHA_8,
        RGB_565,
        ARGB_4444,
        ARGB_8888,
        RGBA_F16,
        HARDWARE
    }

    private final BufferedImage image;
    private final Config config;

    public Bitmap(BufferedImage image, Config config) {
        this.image = image;
        this.config = config;
    }

    public Config getConfig() {
        return config;
    }

    public Bitmap copy(Config wanted, boolean isMutable) {
        return new Bitmap(image, wanted);
    }

    public int getWidth() {
        return image.getWidth();
    }

    public int getHeight() {
        return image.getHeight();
    }

    /** As on Android, pixels in the graphics processor's memory cannot be read. */
    public void getPixels(int[] pixels, int offset, int stride, int x, int y, int width, int height) {
        if (config == Config.HARDWARE) {
            throw new IllegalStateException("unable to getPixels(), pixel access is not supported on Config#HARDWARE bitmaps");
        }
        image.getRGB(x, y, width, height, pixels, offset, stride);
    }
}
