"""The directory: the registry's contract, the etcd client, the watcher, the static list."""
