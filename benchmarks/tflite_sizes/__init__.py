"""Sizes of .tflite files: our writers beside TensorFlow's converter, on the same networks and weights."""
