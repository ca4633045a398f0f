"""Shared vocabulary: errors, graph, tensors, quantization, bundle, signing, sealing, messages."""
