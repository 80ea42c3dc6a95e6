"""Hostler deploys any model, on any compute, at any scale."""

__version__ = "0.1.0"
