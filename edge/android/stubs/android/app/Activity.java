package android.app;

public class Activity extends android.content.Context {
    @Override
    public android.content.res.AssetManager getAssets() {
        throw new RuntimeException("Stub!");
    }

    protected void onCreate(android.os.Bundle savedInstanceState) {
        throw new RuntimeException("Stub!");
    }

    public void setContentView(android.view.View view) {
        throw new RuntimeException("Stub!");
    }

    public final void runOnUiThread(Runnable action) {
        throw new RuntimeException("Stub!");
    }
}
