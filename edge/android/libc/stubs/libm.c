/* Stands for Android's libm.so when linking. */
void exp(void);

void exp(void) {}
