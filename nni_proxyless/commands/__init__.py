"""The commands of ``nni-proxyless``, a file each; :mod:`nni_proxyless.cli` puts them together."""
