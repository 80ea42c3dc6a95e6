"""Every rule of the platform as a pure function of data and `now`."""
