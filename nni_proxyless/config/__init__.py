"""What stands in files: search.yml, train.yml, the experiment file of NNI, the files to start from; and the names in them."""
