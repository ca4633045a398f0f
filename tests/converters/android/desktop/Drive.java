import android.app.Activity;
import android.content.Context;
import android.content.res.AssetManager;
import android.graphics.Bitmap;
import android.os.Bundle;
import android.widget.TextView;
import dev.emberfleet.EmberModel;
import dev.emberfleet.EmberResult;
import java.io.File;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.lang.reflect.Method;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.Provider;
import java.security.Security;
import java.util.Arrays;
import java.util.Base64;
import java.util.concurrent.TimeUnit;
import javax.imageio.ImageIO;

/** Uses the library as an app does and prints one line for each word it is given; `name=value` words carry one. */
public final class Drive {
    /** A folder of files in the place of an app's assets. */
    private static final class Desk extends Context {
        private final AssetManager assets;

        Desk(final File folder) {
            assets =
                    new AssetManager() {
                        @Override
                        public InputStream open(String name) throws IOException {
                            return Files.newInputStream(new File(folder, name).toPath());
                        }
                    };
        }

        @Override
        public AssetManager getAssets() {
            return assets;
        }
    }

    private static Context context;
    private static EmberModel model;

    public static void main(String[] words) throws IOException {
        PrintStream out = new PrintStream(new FileOutputStream(FileDescriptor.out), true, "UTF-8");
        for (String word : words) {
            int cut = word.indexOf('=');
            String line;
            try {
                line = obey(cut < 0 ? word : word.substring(0, cut), word.substring(cut + 1));
            } catch (Exception | UnsatisfiedLinkError error) {
                line = error.getClass().getName() + ": " + error.getMessage();
            }
            out.println(line);
        }
        out.flush();
    }

    private static String obey(String verb, String value) throws Exception {
        switch (verb) {
            case "assets":
                context = new Desk(new File(value));
                return "assets";
            case "open":
                model = EmberModel.open(context);
                return "opened";
            case "open-trusting":
                model = EmberModel.open(context, "emberfleet/model.ember", value.split(","));
                return "opened";
            case "open-file":
                model = EmberModel.open(Files.readAllBytes(Path.of(value)));
                return "opened";
            case "about":
                return String.join(" | ", model.about()) + " | " + String.join(",", model.labels());
            case "classify":
                return words(model.classify(new Bitmap(ImageIO.read(new File(value)), Bitmap.Config.ARGB_8888)));
            case "classify-hardware":
                return words(model.classify(new Bitmap(ImageIO.read(new File(value)), Bitmap.Config.HARDWARE)));
            case "classify-wrong":
                return words(model.classify(new int[5], 2, 3));
            case "close":
                model.close();
                return "closed";
            case "opencl":
                return String.valueOf(EmberModel.hasOpenCl());
            case "tflite":
                ByteBuffer bytes = EmberModel.readTflite(context);
                MessageDigest digest = MessageDigest.getInstance("SHA-256");
                digest.update(bytes);
                return bytes.isDirect() + " " + Base64.getEncoder().encodeToString(digest.digest());
            case "tflite-asset":
                return EmberModel.tfliteAsset();
            case "forget-ed25519":
                for (Provider provider : Security.getProviders("KeyFactory.Ed25519")) {
                    Security.removeProvider(provider.getName());
                }
                return "forgotten";
            case "start-app":
                return startApp();
            default:
                throw new IllegalArgumentException(verb);
        }
    }

    /** What the sample app shows. */
    private static String startApp() throws Exception {
        Activity.assets = context.getAssets();
        Class<?> type = Class.forName("dev.emberfleet.sample.MainActivity");
        Object activity = type.getConstructor().newInstance();
        Method create = type.getDeclaredMethod("onCreate", Bundle.class);
        create.setAccessible(true);
        create.invoke(activity, new Object[] {null});
        return TextView.SHOWN.poll(60, TimeUnit.SECONDS);
    }

    private static String words(EmberResult result) {
        StringBuilder line = new StringBuilder();
        for (int p = 0; p < result.positions(); p++) {
            line.append(result.label(p)).append(' ').append(result.score(p)).append(' ');
        }
        boolean first = result.label().equals(result.label(0)) && result.score() == result.score(0);
        return line + Arrays.toString(result.scores()) + " " + result.labels().length + " " + first;
    }
}
