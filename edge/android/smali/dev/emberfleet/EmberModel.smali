.class public final Ldev/emberfleet/EmberModel;
.super Ljava/lang/Object;
.implements Ljava/lang/AutoCloseable;
.source "EmberModel.java"

.field private static final BUNDLE_ASSET:Ljava/lang/String; = "emberfleet/model.ember"
.field private static final KEY_BYTES:I = 0x20
.field private static final MAX_BYTES:I = 0x10000000
.field private static final TFLITE_ASSET:Ljava/lang/String; = "emberfleet/model.tflite"

.field private final about:[Ljava/lang/String;
.field private handle:J
.field private final labels:[Ljava/lang/String;

.method static constructor <clinit>()V
    .locals 1
    const-string v0, "ember"
    invoke-static {v0}, Ljava/lang/System;->loadLibrary(Ljava/lang/String;)V
    return-void
.end method

.method private constructor <init>(J)V
    .locals 1
    invoke-direct {p0}, Ljava/lang/Object;-><init>()V
    iput-wide p1, p0, Ldev/emberfleet/EmberModel;->handle:J
    invoke-static {p1, p2}, Ldev/emberfleet/EmberModel;->nativeLabels(J)[Ljava/lang/String;
    move-result-object v0
    iput-object v0, p0, Ldev/emberfleet/EmberModel;->labels:[Ljava/lang/String;
    invoke-static {p1, p2}, Ldev/emberfleet/EmberModel;->nativeAbout(J)[Ljava/lang/String;
    move-result-object v0
    iput-object v0, p0, Ldev/emberfleet/EmberModel;->about:[Ljava/lang/String;
    return-void
.end method

.method public static open(Landroid/content/Context;)Ldev/emberfleet/EmberModel;
    .locals 2
    const-string v0, "emberfleet/model.ember"
    invoke-static {}, Ldev/emberfleet/Pinned;->keys()[Ljava/lang/String;
    move-result-object v1
    invoke-static {p0, v0, v1}, Ldev/emberfleet/EmberModel;->open(Landroid/content/Context;Ljava/lang/String;[Ljava/lang/String;)Ldev/emberfleet/EmberModel;
    move-result-object v0
    return-object v0
.end method

.method public static varargs open(Landroid/content/Context;Ljava/lang/String;[Ljava/lang/String;)Ldev/emberfleet/EmberModel;
    .locals 1
    invoke-static {p0, p1}, Ldev/emberfleet/EmberModel;->readAsset(Landroid/content/Context;Ljava/lang/String;)[B
    move-result-object v0
    invoke-static {v0, p2}, Ldev/emberfleet/EmberModel;->open([B[Ljava/lang/String;)Ldev/emberfleet/EmberModel;
    move-result-object v0
    return-object v0
.end method

.method public static varargs open([B[Ljava/lang/String;)Ldev/emberfleet/EmberModel;
    .locals 6
    new-instance v0, Ljava/io/ByteArrayOutputStream;
    invoke-direct {v0}, Ljava/io/ByteArrayOutputStream;-><init>()V
    array-length v1, p1
    const/4 v2, 0x0
    :next
    if-ge v2, v1, :done
    aget-object v3, p1, v2
    invoke-static {}, Ljava/util/Base64;->getDecoder()Ljava/util/Base64$Decoder;
    move-result-object v4
    invoke-virtual {v4, v3}, Ljava/util/Base64$Decoder;->decode(Ljava/lang/String;)[B
    move-result-object v3
    array-length v4, v3
    const/16 v5, 0x20
    if-eq v4, v5, :right
    new-instance v0, Ljava/lang/IllegalArgumentException;
    const-string v1, "a public key is 32 bytes in base64"
    invoke-direct {v0, v1}, Ljava/lang/IllegalArgumentException;-><init>(Ljava/lang/String;)V
    throw v0
    :right
    invoke-virtual {v0, v3}, Ljava/io/ByteArrayOutputStream;->write([B)V
    add-int/lit8 v2, v2, 0x1
    goto :next
    :done
    invoke-virtual {v0}, Ljava/io/ByteArrayOutputStream;->toByteArray()[B
    move-result-object v0
    invoke-static {p0, v0}, Ldev/emberfleet/EmberModel;->nativeOpen([B[B)J
    move-result-wide v0
    new-instance v2, Ldev/emberfleet/EmberModel;
    invoke-direct {v2, v0, v1}, Ldev/emberfleet/EmberModel;-><init>(J)V
    return-object v2
.end method

.method public static native hasOpenCl()Z
.end method

.method public static tfliteAsset()Ljava/lang/String;
    .locals 1
    const-string v0, "emberfleet/model.tflite"
    return-object v0
.end method

.method public static readTflite(Landroid/content/Context;)Ljava/nio/ByteBuffer;
    .locals 4
    const-string v0, "emberfleet/model.tflite"
    invoke-static {p0, v0}, Ldev/emberfleet/EmberModel;->readAsset(Landroid/content/Context;Ljava/lang/String;)[B
    move-result-object v0
    :try_start
    const-string v1, "SHA-256"
    invoke-static {v1}, Ljava/security/MessageDigest;->getInstance(Ljava/lang/String;)Ljava/security/MessageDigest;
    move-result-object v1
    invoke-virtual {v1, v0}, Ljava/security/MessageDigest;->digest([B)[B
    move-result-object v1
    :try_end
    .catch Ljava/security/GeneralSecurityException; {:try_start .. :try_end} :no_digest
    invoke-static {}, Ljava/util/Base64;->getDecoder()Ljava/util/Base64$Decoder;
    move-result-object v2
    invoke-static {}, Ldev/emberfleet/Pinned;->tfliteDigest()Ljava/lang/String;
    move-result-object v3
    invoke-virtual {v2, v3}, Ljava/util/Base64$Decoder;->decode(Ljava/lang/String;)[B
    move-result-object v2
    invoke-static {v1, v2}, Ljava/security/MessageDigest;->isEqual([B[B)Z
    move-result v1
    if-nez v1, :same
    new-instance v1, Ldev/emberfleet/UntrustedModelException;
    const-string v2, "the .tflite is not the one that this library was made with"
    invoke-direct {v1, v2}, Ldev/emberfleet/UntrustedModelException;-><init>(Ljava/lang/String;)V
    throw v1
    :same
    array-length v1, v0
    invoke-static {v1}, Ljava/nio/ByteBuffer;->allocateDirect(I)Ljava/nio/ByteBuffer;
    move-result-object v1
    invoke-static {}, Ljava/nio/ByteOrder;->nativeOrder()Ljava/nio/ByteOrder;
    move-result-object v2
    invoke-virtual {v1, v2}, Ljava/nio/ByteBuffer;->order(Ljava/nio/ByteOrder;)Ljava/nio/ByteBuffer;
    move-result-object v1
    invoke-virtual {v1, v0}, Ljava/nio/ByteBuffer;->put([B)Ljava/nio/ByteBuffer;
    invoke-virtual {v1}, Ljava/nio/ByteBuffer;->rewind()Ljava/nio/Buffer;
    return-object v1
    :no_digest
    move-exception v1
    new-instance v1, Ldev/emberfleet/UntrustedModelException;
    const-string v2, "no SHA-256 here"
    invoke-direct {v1, v2}, Ldev/emberfleet/UntrustedModelException;-><init>(Ljava/lang/String;)V
    throw v1
.end method

.method public classify(Landroid/graphics/Bitmap;)Ldev/emberfleet/EmberResult;
    .locals 9
    move-object v0, p1
    sget-object v1, Landroid/graphics/Bitmap$Config;->ARGB_8888:Landroid/graphics/Bitmap$Config;
    invoke-virtual {p1}, Landroid/graphics/Bitmap;->getConfig()Landroid/graphics/Bitmap$Config;
    move-result-object v2
    if-eq v2, v1, :plain
    const/4 v2, 0x0
    invoke-virtual {p1, v1, v2}, Landroid/graphics/Bitmap;->copy(Landroid/graphics/Bitmap$Config;Z)Landroid/graphics/Bitmap;
    move-result-object v0
    :plain
    invoke-virtual {v0}, Landroid/graphics/Bitmap;->getWidth()I
    move-result v3
    invoke-virtual {v0}, Landroid/graphics/Bitmap;->getHeight()I
    move-result v7
    move v6, v3
    mul-int v1, v6, v7
    new-array v1, v1, [I
    const/4 v2, 0x0
    const/4 v4, 0x0
    const/4 v5, 0x0
    invoke-virtual/range {v0 .. v7}, Landroid/graphics/Bitmap;->getPixels([IIIIIII)V
    invoke-virtual {p0, v1, v6, v7}, Ldev/emberfleet/EmberModel;->classify([III)Ldev/emberfleet/EmberResult;
    move-result-object v8
    return-object v8
.end method

.method public declared-synchronized classify([III)Ldev/emberfleet/EmberResult;
    .locals 4
    monitor-enter p0
    :try_start
    iget-wide v0, p0, Ldev/emberfleet/EmberModel;->handle:J
    const-wide/16 v2, 0x0
    cmp-long v2, v0, v2
    if-nez v2, :open
    new-instance v0, Ljava/lang/IllegalStateException;
    const-string v1, "the model is closed"
    invoke-direct {v0, v1}, Ljava/lang/IllegalStateException;-><init>(Ljava/lang/String;)V
    throw v0
    :open
    invoke-static {v0, v1, p1, p2, p3}, Ldev/emberfleet/EmberModel;->nativeClassify(J[III)[F
    move-result-object v0
    new-instance v1, Ldev/emberfleet/EmberResult;
    iget-object v2, p0, Ldev/emberfleet/EmberModel;->labels:[Ljava/lang/String;
    invoke-direct {v1, v2, v0}, Ldev/emberfleet/EmberResult;-><init>([Ljava/lang/String;[F)V
    :try_end
    .catchall {:try_start .. :try_end} :failed
    monitor-exit p0
    return-object v1
    :failed
    move-exception v0
    monitor-exit p0
    throw v0
.end method

.method public labels()[Ljava/lang/String;
    .locals 1
    iget-object v0, p0, Ldev/emberfleet/EmberModel;->labels:[Ljava/lang/String;
    invoke-virtual {v0}, [Ljava/lang/String;->clone()Ljava/lang/Object;
    move-result-object v0
    check-cast v0, [Ljava/lang/String;
    return-object v0
.end method

.method public about()[Ljava/lang/String;
    .locals 1
    iget-object v0, p0, Ldev/emberfleet/EmberModel;->about:[Ljava/lang/String;
    invoke-virtual {v0}, [Ljava/lang/String;->clone()Ljava/lang/Object;
    move-result-object v0
    check-cast v0, [Ljava/lang/String;
    return-object v0
.end method

.method public declared-synchronized close()V
    .locals 2
    monitor-enter p0
    :try_start
    iget-wide v0, p0, Ldev/emberfleet/EmberModel;->handle:J
    invoke-static {v0, v1}, Ldev/emberfleet/EmberModel;->nativeClose(J)V
    const-wide/16 v0, 0x0
    iput-wide v0, p0, Ldev/emberfleet/EmberModel;->handle:J
    :try_end
    .catchall {:try_start .. :try_end} :failed
    monitor-exit p0
    return-void
    :failed
    move-exception v0
    monitor-exit p0
    throw v0
.end method

.method private static readAsset(Landroid/content/Context;Ljava/lang/String;)[B
    .locals 6
    new-instance v0, Ljava/io/ByteArrayOutputStream;
    invoke-direct {v0}, Ljava/io/ByteArrayOutputStream;-><init>()V
    const/high16 v1, 0x10000
    new-array v1, v1, [B
    invoke-virtual {p0}, Landroid/content/Context;->getAssets()Landroid/content/res/AssetManager;
    move-result-object v2
    invoke-virtual {v2, p1}, Landroid/content/res/AssetManager;->open(Ljava/lang/String;)Ljava/io/InputStream;
    move-result-object v2
    :try_start
    invoke-virtual {v2, v1}, Ljava/io/InputStream;->read([B)I
    move-result v3
    :next
    if-ltz v3, :done
    const/4 v4, 0x0
    invoke-virtual {v0, v1, v4, v3}, Ljava/io/ByteArrayOutputStream;->write([BII)V
    invoke-virtual {v0}, Ljava/io/ByteArrayOutputStream;->size()I
    move-result v4
    const/high16 v5, 0x10000000
    if-le v4, v5, :fits
    new-instance v3, Ldev/emberfleet/EmberException;
    const-string v4, "the asset is larger than 256 MiB"
    invoke-direct {v3, v4}, Ldev/emberfleet/EmberException;-><init>(Ljava/lang/String;)V
    throw v3
    :fits
    invoke-virtual {v2, v1}, Ljava/io/InputStream;->read([B)I
    move-result v3
    goto :next
    :try_end
    .catchall {:try_start .. :try_end} :failed
    :done
    invoke-virtual {v2}, Ljava/io/InputStream;->close()V
    invoke-virtual {v0}, Ljava/io/ByteArrayOutputStream;->toByteArray()[B
    move-result-object v0
    return-object v0
    :failed
    move-exception v3
    invoke-virtual {v2}, Ljava/io/InputStream;->close()V
    throw v3
.end method

.method private static native nativeAbout(J)[Ljava/lang/String;
.end method

.method private static native nativeClassify(J[III)[F
.end method

.method private static native nativeClose(J)V
.end method

.method private static native nativeLabels(J)[Ljava/lang/String;
.end method

.method private static native nativeOpen([B[B)J
.end method
