/* Division of 64-bit numbers for armeabi-v7a, which has no instruction for it. Compilers call it by the name and the
 * registers that the Run-time ABI for the ARM Architecture lays down (section 5.3.1): quotient in r0 and r1, remainder
 * in r2 and r3. That is also where a vector of two 64-bit numbers is returned, so no assembly is needed.
 * Division by zero gives all ones and the dividend. */
#include <stdint.h>

typedef uint64_t pair __attribute__((vector_size(16)));

pair __aeabi_uldivmod(uint64_t dividend, uint64_t divisor);

pair __aeabi_uldivmod(uint64_t dividend, uint64_t divisor)
{
    uint64_t quotient = 0, rest = 0;
    for (int bit = 63; bit >= 0; bit--) {
        const uint64_t carry = rest >> 63;
        rest = rest << 1 | (dividend >> bit & 1);
        quotient <<= 1;
        if (carry || rest >= divisor) {
            rest -= divisor;
            quotient |= 1;
        }
    }
    return (pair){quotient, rest};
}
