"""The control API and the console, both over the verbs of `control`."""
