package dev.emberfleet.sample;

import android.app.Activity;
import android.graphics.BitmapFactory;
import android.os.Bundle;
import android.widget.TextView;
import dev.emberfleet.EmberModel;
import dev.emberfleet.EmberResult;
import dev.emberfleet.NoOpenClException;
import java.io.IOException;

/** Opens the model, classifies the picture among the assets and shows the answer. */
public final class MainActivity extends Activity implements Runnable {
    private TextView view;
    private String answer;

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        view = new TextView(this);
        setContentView(view);
        new Thread(this).start();
    }

    /** First on a thread of its own, since opening builds kernels; then, with the answer, on the main thread. */
    @Override
    public void run() {
        if (answer == null) {
            answer = ask();
            runOnUiThread(this);
        } else {
            view.setText(answer);
        }
    }

    private String ask() {
        try {
            EmberModel model = EmberModel.open(this);
            try {
                EmberResult result = model.classify(BitmapFactory.decodeStream(getAssets().open("sample")));
                return result.label() + " " + result.score();
            } finally {
                model.close();
            }
        } catch (NoOpenClException error) {
            return "No OpenCL here, so run " + EmberModel.tfliteAsset() + " with LiteRT. " + error.getMessage();
        } catch (IOException error) {
            return error.getMessage();
        }
    }
}
