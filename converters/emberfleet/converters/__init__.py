"""From a trained model to what a target takes."""
