"""Pictures and their captions: sources, transforms, order of reading, and the latent cache."""
