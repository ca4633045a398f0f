/* Gives each file named to the fuzz target once: the corpus without libFuzzer, for any compiler. */
#include <stdio.h>
#include <stdlib.h>

#include "../file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int main(int count, char **words)
{
    for (int i = 1; i < count; i++) {
        ember_error error;
        size_t size;
        uint8_t *bytes = file_read(words[i], 1u << 20, &size, &error);
        if (!bytes) {
            fprintf(stderr, "%s\n", error.text);
            return 1;
        }
        LLVMFuzzerTestOneInput(bytes, size);
        free(bytes);
    }
    printf("%d files\n", count - 1);
    return 0;
}
