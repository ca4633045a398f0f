.class public final Ldev/emberfleet/UntrustedModelException;
.super Ldev/emberfleet/EmberException;
.source "UntrustedModelException.java"

.method public constructor <init>(Ljava/lang/String;)V
    .locals 0
    invoke-direct {p0, p1}, Ldev/emberfleet/EmberException;-><init>(Ljava/lang/String;)V
    return-void
.end method
