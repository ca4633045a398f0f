"""Open a bundle, run it, retrain it, roll back."""
