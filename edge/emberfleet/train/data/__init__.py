"""Data sets: readers of the usual formats, downloads, augmentation and batches."""
