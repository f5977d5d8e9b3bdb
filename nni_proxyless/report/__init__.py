"""What searches have found: read from where it lies, timed side by side, as a table."""
