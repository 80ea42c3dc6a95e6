"""A platform in one file: made of a home folder in use, and made a home folder of again on any machine."""
