"""The fleet's figures in the README, beside Flower's."""
