"""Networks from and to ONNX, the format that PyTorch, Keras and scikit-learn export.

Import what is needed from its module (`importer`, `float_writer`, `int8_writer`): the onnx package is
loaded by whoever reads or writes a file, not by a device.
"""
