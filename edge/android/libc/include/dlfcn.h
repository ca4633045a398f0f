/* The numbers are those of Android: a 32-bit one has others than POSIX systems usually have. */
#ifndef _DLFCN_H
#define _DLFCN_H

#define RTLD_LOCAL 0
#if defined(__LP64__)
#define RTLD_NOW 2
#else
#define RTLD_NOW 0
#endif

void *dlopen(const char *path, int flags);
void *dlsym(void *library, const char *name);
int dlclose(void *library);

#endif
