.class final Ldev/emberfleet/Ed25519;
.super Ljava/lang/Object;
.source "Ed25519.java"

.field private static final KEY_HEAD:[B
.field private static final KEY_STORE:Ljava/lang/String; = "AndroidKeyStore"
.field private static final NAME:Ljava/lang/String; = "Ed25519"
.field private static final TINK:Ljava/lang/String; = "com.google.crypto.tink.subtle.Ed25519Verify"

.method static constructor <clinit>()V
    .locals 1
    const/16 v0, 0xc
    new-array v0, v0, [B
    fill-array-data v0, :head
    sput-object v0, Ldev/emberfleet/Ed25519;->KEY_HEAD:[B
    return-void
    :head
    .array-data 1
        0x30t
        0x2at
        0x30t
        0x5t
        0x6t
        0x3t
        0x2bt
        0x65t
        0x70t
        0x3t
        0x21t
        0x0t
    .end array-data
.end method

.method private constructor <init>()V
    .locals 0
    invoke-direct {p0}, Ljava/lang/Object;-><init>()V
    return-void
.end method

.method static verify([B[B[B)I
    .locals 6
    invoke-static {}, Ljava/security/Security;->getProviders()[Ljava/security/Provider;
    move-result-object v0
    array-length v1, v0
    const/4 v2, 0x0
    :next
    if-ge v2, v1, :none
    aget-object v3, v0, v2
    invoke-virtual {v3}, Ljava/security/Provider;->getName()Ljava/lang/String;
    move-result-object v4
    const-string v5, "AndroidKeyStore"
    invoke-virtual {v4, v5}, Ljava/lang/String;->startsWith(Ljava/lang/String;)Z
    move-result v4
    if-nez v4, :skip
    invoke-static {v3, p0, p1, p2}, Ldev/emberfleet/Ed25519;->byProvider(Ljava/security/Provider;[B[B[B)I
    move-result v4
    if-ltz v4, :skip
    return v4
    :skip
    add-int/lit8 v2, v2, 0x1
    goto :next
    :none
    invoke-static {p0, p1, p2}, Ldev/emberfleet/Ed25519;->byTink([B[B[B)I
    move-result v0
    return v0
.end method

.method private static byProvider(Ljava/security/Provider;[B[B[B)I
    .locals 5
    sget-object v0, Ldev/emberfleet/Ed25519;->KEY_HEAD:[B
    array-length v1, v0
    array-length v2, p1
    add-int v3, v1, v2
    new-array v3, v3, [B
    const/4 v4, 0x0
    invoke-static {v0, v4, v3, v4, v1}, Ljava/lang/System;->arraycopy(Ljava/lang/Object;ILjava/lang/Object;II)V
    invoke-static {p1, v4, v3, v1, v2}, Ljava/lang/System;->arraycopy(Ljava/lang/Object;ILjava/lang/Object;II)V
    :try_start
    const-string v0, "Ed25519"
    invoke-static {v0, p0}, Ljava/security/KeyFactory;->getInstance(Ljava/lang/String;Ljava/security/Provider;)Ljava/security/KeyFactory;
    move-result-object v1
    new-instance v2, Ljava/security/spec/X509EncodedKeySpec;
    invoke-direct {v2, v3}, Ljava/security/spec/X509EncodedKeySpec;-><init>([B)V
    invoke-virtual {v1, v2}, Ljava/security/KeyFactory;->generatePublic(Ljava/security/spec/KeySpec;)Ljava/security/PublicKey;
    move-result-object v1
    invoke-static {v0, p0}, Ljava/security/Signature;->getInstance(Ljava/lang/String;Ljava/security/Provider;)Ljava/security/Signature;
    move-result-object v0
    invoke-virtual {v0, v1}, Ljava/security/Signature;->initVerify(Ljava/security/PublicKey;)V
    invoke-virtual {v0, p3}, Ljava/security/Signature;->update([B)V
    invoke-virtual {v0, p2}, Ljava/security/Signature;->verify([B)Z
    move-result v0
    :try_end
    .catch Ljava/security/SignatureException; {:try_start .. :try_end} :wrong
    .catch Ljava/security/GeneralSecurityException; {:try_start .. :try_end} :unknown
    .catch Ljava/lang/RuntimeException; {:try_start .. :try_end} :unknown
    return v0
    :wrong
    move-exception v0
    const/4 v0, 0x0
    return v0
    :unknown
    move-exception v0
    const/4 v0, -0x1
    return v0
.end method

.method private static byTink([B[B[B)I
    .locals 7
    const/4 v5, 0x0
    const/4 v6, 0x1
    :try_start
    const-string v0, "com.google.crypto.tink.subtle.Ed25519Verify"
    invoke-static {v0}, Ljava/lang/Class;->forName(Ljava/lang/String;)Ljava/lang/Class;
    move-result-object v0
    new-array v1, v6, [Ljava/lang/Class;
    const-class v2, [B
    aput-object v2, v1, v5
    invoke-virtual {v0, v1}, Ljava/lang/Class;->getConstructor([Ljava/lang/Class;)Ljava/lang/reflect/Constructor;
    move-result-object v1
    new-array v3, v6, [Ljava/lang/Object;
    aput-object p0, v3, v5
    invoke-virtual {v1, v3}, Ljava/lang/reflect/Constructor;->newInstance([Ljava/lang/Object;)Ljava/lang/Object;
    move-result-object v1
    const/4 v4, 0x2
    new-array v3, v4, [Ljava/lang/Class;
    aput-object v2, v3, v5
    aput-object v2, v3, v6
    const-string v2, "verify"
    invoke-virtual {v0, v2, v3}, Ljava/lang/Class;->getMethod(Ljava/lang/String;[Ljava/lang/Class;)Ljava/lang/reflect/Method;
    move-result-object v0
    new-array v2, v4, [Ljava/lang/Object;
    aput-object p1, v2, v5
    aput-object p2, v2, v6
    invoke-virtual {v0, v1, v2}, Ljava/lang/reflect/Method;->invoke(Ljava/lang/Object;[Ljava/lang/Object;)Ljava/lang/Object;
    :try_end
    .catch Ljava/lang/reflect/InvocationTargetException; {:try_start .. :try_end} :thrown
    .catch Ljava/lang/ReflectiveOperationException; {:try_start .. :try_end} :unknown
    .catch Ljava/lang/RuntimeException; {:try_start .. :try_end} :unknown
    return v6
    :thrown
    move-exception v0
    invoke-virtual {v0}, Ljava/lang/reflect/InvocationTargetException;->getCause()Ljava/lang/Throwable;
    move-result-object v0
    instance-of v0, v0, Ljava/security/GeneralSecurityException;
    if-eqz v0, :failed
    return v5
    :unknown
    move-exception v0
    :failed
    const/4 v0, -0x1
    return v0
.end method
