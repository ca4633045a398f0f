.class public final Ldev/emberfleet/NoOpenClException;
.super Ldev/emberfleet/EmberException;
.source "NoOpenClException.java"

.method public constructor <init>(Ljava/lang/String;)V
    .locals 0
    invoke-direct {p0, p1}, Ldev/emberfleet/EmberException;-><init>(Ljava/lang/String;)V
    return-void
.end method
