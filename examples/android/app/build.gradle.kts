plugins {
    id("com.android.application")
}

android {
    namespace = "dev.emberfleet.sample"
    compileSdk = 35

    defaultConfig {
        applicationId = "dev.emberfleet.sample"
        minSdk = 26
        targetSdk = 35
        versionCode = 1
        versionName = "1"
    }

    buildTypes {
        release {
            isMinifyEnabled = true
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }

    // LiteRT maps the .tflite into memory, so it stays uncompressed.
    androidResources {
        noCompress += listOf("tflite")
    }
}

dependencies {
    implementation(files("libs/model.aar"))
    // Checks the model's signature on phones whose system cannot: docs/guides/android.md, section Signatures.
    implementation("com.google.crypto.tink:tink-android:1.15.0")
}
