"""What all rooms stand on: errors, files that are written whole, progress, and what torch and Python leave open."""
