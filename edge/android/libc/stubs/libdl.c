/* Stands for Android's libdl.so when linking. */
#define NAMED(name) void name(void); void name(void) {}
NAMED(dlopen)
NAMED(dlsym)
NAMED(dlclose)
