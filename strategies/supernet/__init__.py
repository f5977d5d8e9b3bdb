"""The supernet: gates of choices, and layers that run only the sampled path."""
