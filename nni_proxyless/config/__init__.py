"""Configuration: search.yml, train.yml, NNI's experiment file, the files to start from; and the names in them."""
