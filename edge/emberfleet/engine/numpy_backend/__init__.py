"""The reference backend: plain numpy over BLAS, float32 or float64, forward and backward."""
