"""What the platform remembers. Rows never leave this room."""
