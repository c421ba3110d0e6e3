"""What a training costs with a cached reference, with a live one, and without."""
