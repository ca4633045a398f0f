"""Reports: pages that carry their own charts and pictures."""
