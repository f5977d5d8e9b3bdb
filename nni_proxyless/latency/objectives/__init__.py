"""What a search optimizes besides its loss: penalty, reward, hard budget."""
