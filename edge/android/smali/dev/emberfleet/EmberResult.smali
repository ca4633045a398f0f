.class public final Ldev/emberfleet/EmberResult;
.super Ljava/lang/Object;
.source "EmberResult.java"

.field private final labels:[Ljava/lang/String;
.field private final scores:[F

.method constructor <init>([Ljava/lang/String;[F)V
    .locals 0
    invoke-direct {p0}, Ljava/lang/Object;-><init>()V
    iput-object p1, p0, Ldev/emberfleet/EmberResult;->labels:[Ljava/lang/String;
    iput-object p2, p0, Ldev/emberfleet/EmberResult;->scores:[F
    return-void
.end method

.method public positions()I
    .locals 2
    iget-object v0, p0, Ldev/emberfleet/EmberResult;->scores:[F
    array-length v0, v0
    iget-object v1, p0, Ldev/emberfleet/EmberResult;->labels:[Ljava/lang/String;
    array-length v1, v1
    div-int/2addr v0, v1
    return v0
.end method

.method public labels()[Ljava/lang/String;
    .locals 1
    iget-object v0, p0, Ldev/emberfleet/EmberResult;->labels:[Ljava/lang/String;
    invoke-virtual {v0}, [Ljava/lang/String;->clone()Ljava/lang/Object;
    move-result-object v0
    check-cast v0, [Ljava/lang/String;
    return-object v0
.end method

.method public scores()[F
    .locals 1
    iget-object v0, p0, Ldev/emberfleet/EmberResult;->scores:[F
    invoke-virtual {v0}, [F->clone()Ljava/lang/Object;
    move-result-object v0
    check-cast v0, [F
    return-object v0
.end method

.method public label()Ljava/lang/String;
    .locals 1
    const/4 v0, 0x0
    invoke-virtual {p0, v0}, Ldev/emberfleet/EmberResult;->label(I)Ljava/lang/String;
    move-result-object v0
    return-object v0
.end method

.method public label(I)Ljava/lang/String;
    .locals 2
    iget-object v0, p0, Ldev/emberfleet/EmberResult;->labels:[Ljava/lang/String;
    invoke-direct {p0, p1}, Ldev/emberfleet/EmberResult;->best(I)I
    move-result v1
    aget-object v0, v0, v1
    return-object v0
.end method

.method public score()F
    .locals 1
    const/4 v0, 0x0
    invoke-virtual {p0, v0}, Ldev/emberfleet/EmberResult;->score(I)F
    move-result v0
    return v0
.end method

.method public score(I)F
    .locals 3
    iget-object v0, p0, Ldev/emberfleet/EmberResult;->labels:[Ljava/lang/String;
    array-length v0, v0
    mul-int/2addr v0, p1
    invoke-direct {p0, p1}, Ldev/emberfleet/EmberResult;->best(I)I
    move-result v1
    add-int/2addr v0, v1
    iget-object v2, p0, Ldev/emberfleet/EmberResult;->scores:[F
    aget v0, v2, v0
    return v0
.end method

.method private best(I)I
    .locals 7
    iget-object v0, p0, Ldev/emberfleet/EmberResult;->labels:[Ljava/lang/String;
    array-length v0, v0
    iget-object v1, p0, Ldev/emberfleet/EmberResult;->scores:[F
    mul-int v2, p1, v0
    const/4 v3, 0x0
    const/4 v4, 0x1
    :next
    if-ge v4, v0, :done
    add-int v5, v2, v4
    aget v5, v1, v5
    add-int v6, v2, v3
    aget v6, v1, v6
    cmpl-float v5, v5, v6
    if-lez v5, :worse
    move v3, v4
    :worse
    add-int/lit8 v4, v4, 0x1
    goto :next
    :done
    return v3
.end method
