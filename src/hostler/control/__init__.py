"""The loops (observe, decide, act, record) and the verbs that the API, the console and the CLI call."""
