"""Compute: the op table, the numpy reference, the OpenCL backend, and the memory they plan ahead."""
