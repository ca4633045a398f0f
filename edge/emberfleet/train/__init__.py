"""Models, data sets, augmentation, the training loop and its report."""
