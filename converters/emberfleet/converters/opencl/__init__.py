"""The OpenCL part of a bundle: the int8 network, the kernels that run it, and which is which."""
