"""The commands of ``nni-proxyless``, a file each; :mod:`nni_proxyless.cli.main` puts them together."""
