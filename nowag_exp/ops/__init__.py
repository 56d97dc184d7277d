"""Pure tensor maths: no models, no files, no config, nothing of ours imported."""
