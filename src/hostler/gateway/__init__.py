"""The front door: an HTTP proxy on uvloop and httptools."""
