"""Facts as tab-separated tables, each with its source. Read by `processor.shell.tables`."""
