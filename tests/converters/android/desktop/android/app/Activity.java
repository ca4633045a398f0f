package android.app;

import android.content.res.AssetManager;

/** An activity without a screen: what is posted to the main thread runs where it is posted. */
public class Activity extends android.content.Context {
    public static AssetManager assets;

    @Override
    public AssetManager getAssets() {
        return assets;
    }

    protected void onCreate(android.os.Bundle savedInstanceState) {}

    public void setContentView(android.view.View view) {}

    public final void runOnUiThread(Runnable action) {
        action.run();
    }
}
