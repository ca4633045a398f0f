"""The OpenCL backend: kernels in .cl files, each beside the Python module that launches it."""
