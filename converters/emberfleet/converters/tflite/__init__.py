"""From a trained network to a .tflite, written with flatbuffers and the published schema: no TensorFlow.

Import what is needed from its module (`int8_writer`, `float_writer`, `reader`): the schema package
takes a moment to load, and a device that only predicts never needs it.
"""
