"""Networks that a search has found: the file, the model of timm, its record, drawing, export. Most of it needs no NNI."""
