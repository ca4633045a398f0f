.class final Ldev/emberfleet/Pinned;
.super Ljava/lang/Object;
.source "Pinned.java"

.method private constructor <init>()V
    .locals 0
    invoke-direct {p0}, Ljava/lang/Object;-><init>()V
    return-void
.end method

.method static keys()[Ljava/lang/String;
    .locals 3
    const/4 v0, 0x1
    new-array v0, v0, [Ljava/lang/String;
    const/4 v1, 0x0
    const-string v2, "@KEY@"
    aput-object v2, v0, v1
    return-object v0
.end method

.method static tfliteDigest()Ljava/lang/String;
    .locals 1
    const-string v0, "@TFLITE@"
    return-object v0
.end method
