"""Files that a user starts from; `nni-proxyless search` without a file takes `search.yml`."""
