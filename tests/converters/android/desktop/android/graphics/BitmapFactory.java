package android.graphics;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import javax.imageio.ImageIO;

public class BitmapFactory {
    public static Bitmap decodeStream(InputStream stream) {
        try {
            return new Bitmap(ImageIO.read(stream), Bitmap.Config.ARGB_8888);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
