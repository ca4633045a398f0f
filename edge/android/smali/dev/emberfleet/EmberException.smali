.class public Ldev/emberfleet/EmberException;
.super Ljava/io/IOException;
.source "EmberException.java"

.method public constructor <init>(Ljava/lang/String;)V
    .locals 0
    invoke-direct {p0, p1}, Ljava/io/IOException;-><init>(Ljava/lang/String;)V
    return-void
.end method
