"""The model store: sources, content-addressed blobs, manifests, the safety scan."""
