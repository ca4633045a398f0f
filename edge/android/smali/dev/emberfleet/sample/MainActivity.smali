.class public final Ldev/emberfleet/sample/MainActivity;
.super Landroid/app/Activity;
.implements Ljava/lang/Runnable;
.source "MainActivity.java"

.field private answer:Ljava/lang/String;
.field private view:Landroid/widget/TextView;

.method public constructor <init>()V
    .locals 0
    invoke-direct {p0}, Landroid/app/Activity;-><init>()V
    return-void
.end method

.method protected onCreate(Landroid/os/Bundle;)V
    .locals 1
    invoke-super {p0, p1}, Landroid/app/Activity;->onCreate(Landroid/os/Bundle;)V
    new-instance v0, Landroid/widget/TextView;
    invoke-direct {v0, p0}, Landroid/widget/TextView;-><init>(Landroid/content/Context;)V
    iput-object v0, p0, Ldev/emberfleet/sample/MainActivity;->view:Landroid/widget/TextView;
    invoke-virtual {p0, v0}, Ldev/emberfleet/sample/MainActivity;->setContentView(Landroid/view/View;)V
    new-instance v0, Ljava/lang/Thread;
    invoke-direct {v0, p0}, Ljava/lang/Thread;-><init>(Ljava/lang/Runnable;)V
    invoke-virtual {v0}, Ljava/lang/Thread;->start()V
    return-void
.end method

.method public run()V
    .locals 2
    iget-object v0, p0, Ldev/emberfleet/sample/MainActivity;->answer:Ljava/lang/String;
    if-nez v0, :show
    invoke-direct {p0}, Ldev/emberfleet/sample/MainActivity;->ask()Ljava/lang/String;
    move-result-object v0
    iput-object v0, p0, Ldev/emberfleet/sample/MainActivity;->answer:Ljava/lang/String;
    invoke-virtual {p0, p0}, Ldev/emberfleet/sample/MainActivity;->runOnUiThread(Ljava/lang/Runnable;)V
    return-void
    :show
    iget-object v1, p0, Ldev/emberfleet/sample/MainActivity;->view:Landroid/widget/TextView;
    invoke-virtual {v1, v0}, Landroid/widget/TextView;->setText(Ljava/lang/CharSequence;)V
    return-void
.end method

.method private ask()Ljava/lang/String;
    .locals 4
    :try_open
    invoke-static {p0}, Ldev/emberfleet/EmberModel;->open(Landroid/content/Context;)Ldev/emberfleet/EmberModel;
    move-result-object v0
    :try_opened
    .catch Ldev/emberfleet/NoOpenClException; {:try_open .. :try_opened} :no_opencl
    .catch Ljava/io/IOException; {:try_open .. :try_opened} :failed
    :try_ask
    invoke-virtual {p0}, Ldev/emberfleet/sample/MainActivity;->getAssets()Landroid/content/res/AssetManager;
    move-result-object v1
    const-string v2, "sample"
    invoke-virtual {v1, v2}, Landroid/content/res/AssetManager;->open(Ljava/lang/String;)Ljava/io/InputStream;
    move-result-object v1
    invoke-static {v1}, Landroid/graphics/BitmapFactory;->decodeStream(Ljava/io/InputStream;)Landroid/graphics/Bitmap;
    move-result-object v1
    invoke-virtual {v0, v1}, Ldev/emberfleet/EmberModel;->classify(Landroid/graphics/Bitmap;)Ldev/emberfleet/EmberResult;
    move-result-object v1
    new-instance v2, Ljava/lang/StringBuilder;
    invoke-direct {v2}, Ljava/lang/StringBuilder;-><init>()V
    invoke-virtual {v1}, Ldev/emberfleet/EmberResult;->label()Ljava/lang/String;
    move-result-object v3
    invoke-virtual {v2, v3}, Ljava/lang/StringBuilder;->append(Ljava/lang/String;)Ljava/lang/StringBuilder;
    const-string v3, " "
    invoke-virtual {v2, v3}, Ljava/lang/StringBuilder;->append(Ljava/lang/String;)Ljava/lang/StringBuilder;
    invoke-virtual {v1}, Ldev/emberfleet/EmberResult;->score()F
    move-result v3
    invoke-virtual {v2, v3}, Ljava/lang/StringBuilder;->append(F)Ljava/lang/StringBuilder;
    invoke-virtual {v2}, Ljava/lang/StringBuilder;->toString()Ljava/lang/String;
    move-result-object v1
    :try_asked
    .catchall {:try_ask .. :try_asked} :close
    :try_close
    invoke-virtual {v0}, Ldev/emberfleet/EmberModel;->close()V
    return-object v1
    :close
    move-exception v1
    invoke-virtual {v0}, Ldev/emberfleet/EmberModel;->close()V
    throw v1
    :try_closed
    .catch Ldev/emberfleet/NoOpenClException; {:try_close .. :try_closed} :no_opencl
    .catch Ljava/io/IOException; {:try_close .. :try_closed} :failed
    :no_opencl
    move-exception v0
    new-instance v1, Ljava/lang/StringBuilder;
    invoke-direct {v1}, Ljava/lang/StringBuilder;-><init>()V
    const-string v2, "No OpenCL here, so run "
    invoke-virtual {v1, v2}, Ljava/lang/StringBuilder;->append(Ljava/lang/String;)Ljava/lang/StringBuilder;
    invoke-static {}, Ldev/emberfleet/EmberModel;->tfliteAsset()Ljava/lang/String;
    move-result-object v2
    invoke-virtual {v1, v2}, Ljava/lang/StringBuilder;->append(Ljava/lang/String;)Ljava/lang/StringBuilder;
    const-string v2, " with LiteRT. "
    invoke-virtual {v1, v2}, Ljava/lang/StringBuilder;->append(Ljava/lang/String;)Ljava/lang/StringBuilder;
    invoke-virtual {v0}, Ldev/emberfleet/NoOpenClException;->getMessage()Ljava/lang/String;
    move-result-object v2
    invoke-virtual {v1, v2}, Ljava/lang/StringBuilder;->append(Ljava/lang/String;)Ljava/lang/StringBuilder;
    invoke-virtual {v1}, Ljava/lang/StringBuilder;->toString()Ljava/lang/String;
    move-result-object v0
    return-object v0
    :failed
    move-exception v0
    invoke-virtual {v0}, Ljava/io/IOException;->getMessage()Ljava/lang/String;
    move-result-object v0
    return-object v0
.end method
