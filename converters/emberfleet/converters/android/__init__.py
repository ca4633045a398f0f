"""A trained model for Android: `aar.build_aar` for an app's project, `apk.build_apk` as a sample app."""
