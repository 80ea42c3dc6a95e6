"""Fixtures that several rooms' tests share."""

pytest_plugins = ["tests.control_under_test"]
