"""Compute: the op table, the numpy reference, the OpenCL backend and their selection."""
